"""`tvm-mnas devices`: the profiles that ship, or what a tracker knows."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tvm_mnas.commands.options import AsJson
from tvm_mnas.console import Column, print_table


def devices(
    tracker: Annotated[
        str | None, typer.Option(help="Ask this tracker, host:port, what is registered.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the device profiles that ship, or the devices that a tracker knows."""
    from tvm_mnas.devices.profile import parse_tracker, read_profile, shipped_profiles
    from tvm_mnas.devices.tracker import TrackerClient

    if tracker is not None:
        with TrackerClient(parse_tracker(tracker)) as client:
            rows: list[dict[str, Any]] = [
                {
                    "key": status.key,
                    "host": status.host,
                    "port": status.port,
                    "state": {True: "free", False: "busy", None: "unknown"}[status.free],
                }
                for status in client.devices()
            ]
        columns: tuple[Column, ...] = (
            Column("key", "key", number=False),
            Column("host", "host", number=False),
            Column("port", "port"),
            Column("state", "state", number=False),
        )
        print_table(f"Devices of tracker {tracker}", columns, rows, as_json=as_json)
        return
    profiles: list[dict[str, Any]] = []
    for key in shipped_profiles():
        profile = read_profile(key)
        profiles.append(
            {
                "key": key,
                "description": profile.description,
                "threads": profile.threads,
                "core": profile.core,
                "reached": "started on demand" if profile.is_local else str(profile.tracker),
            }
        )
    columns = (
        Column("key", "key", number=False),
        Column("threads", "threads"),
        Column("core", "core"),
        Column("reached", "reached", number=False),
        Column("description", "description", number=False, wraps=True),
    )
    print_table("Device profiles", columns, profiles, as_json=as_json)
