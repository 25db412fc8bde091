"""`tvm-mnas devices`: the profiles that ship, or what a tracker knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tvm_mnas.commands.options import AsJson
from tvm_mnas.console import Column, print_table, watch_table
from tvm_mnas.errors import ConfigError

if TYPE_CHECKING:
    from tvm_mnas.devices.core.tracker import TrackerAddress


_TRACKER_COLUMNS = (
    Column("key", "key", number=False),
    Column("host", "host", number=False),
    Column("port", "port"),
    Column("state", "state", number=False),
)


def devices(
    tracker: Annotated[
        str | None, typer.Option(help="Ask this tracker, host:port, what is registered.")
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="With --tracker: go on until interrupted.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the device profiles that ship, or the devices that a tracker knows."""
    from tvm_mnas.devices.core.profile import parse_tracker, read_profile, shipped_profiles

    if watch and (tracker is None or as_json):
        raise ConfigError("--watch goes with --tracker HOST:PORT and without --json")
    if tracker is not None:
        title, address = f"Devices of tracker {tracker}", parse_tracker(tracker)
        if watch:
            watch_table(title, _TRACKER_COLUMNS, lambda: _registered(address))
        else:
            print_table(title, _TRACKER_COLUMNS, _registered(address), as_json=as_json)
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


def _registered(address: TrackerAddress) -> list[dict[str, Any]]:
    from tvm_mnas.devices.core.tracker import TrackerClient

    with TrackerClient(address) as client:
        return [
            {
                "key": status.key,
                "host": status.host,
                "port": status.port,
                "state": {True: "free", False: "busy", None: "unknown"}[status.free],
            }
            for status in client.devices()
        ]
