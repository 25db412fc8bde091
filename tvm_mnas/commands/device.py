"""`tvm-mnas device list | add | push | doctor | bundle`: from a device in its box to one that can be measured."""

from __future__ import annotations

import signal
import threading
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tvm_mnas.commands.options import AsJson
from tvm_mnas.console import MESSAGES, OUTPUT, Column, print_json, print_table, watch_table
from tvm_mnas.errors import ConfigError

if TYPE_CHECKING:
    from tvm_mnas.devices.core.tracker import TrackerAddress
    from tvm_mnas.devices.servers.reach import Reach

device_app = typer.Typer(
    no_args_is_help=True,
    help="Devices: list them, describe one, put its server there, look what is wrong with it.",
)

_TRACKER_COLUMNS = (
    Column("key", "key", number=False),
    Column("host", "host", number=False),
    Column("port", "port"),
    Column("state", "state", number=False),
)
_Profile = Annotated[str, typer.Argument(help="A device profile by name, or a file.")]
_SshHost = Annotated[
    str | None, typer.Option("--ssh", help="A host that ssh reaches without a password.")
]
_AdbSerial = Annotated[
    str | None, typer.Option("--adb", help="A serial number that `adb devices` lists.")
]


@device_app.command("list")
def list_devices(
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
                "precision": str(profile.precision),
                "reached": "started on demand" if profile.is_local else str(profile.tracker),
            }
        )
    columns = (
        Column("key", "key", number=False),
        Column("threads", "threads"),
        Column("core", "core"),
        Column("computes in", "precision", number=False),
        Column("reached", "reached", number=False),
        Column("description", "description", number=False, wraps=True),
    )
    print_table("Device profiles", columns, profiles, as_json=as_json)


@device_app.command()
def bundle(
    arch: Annotated[str, typer.Option(help="The device's architecture: aarch64 or x86_64.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The archive to write, a .tgz.")],
    cache: Annotated[
        Path | None, typer.Option(help="Where wheels are kept, ~/.cache/tvm-mnas if not given.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a device server that needs nothing on the device: unpack it there and start ./run."""
    from tvm_mnas.devices.servers.bundle import build_bundle

    manifest = build_bundle(arch, output, cache=cache)
    if as_json:
        print_json({"file": str(output), "bytes": output.stat().st_size, **manifest})
    else:
        OUTPUT.print(str(output), markup=False)


@device_app.command()
def add(
    key: Annotated[str, typer.Argument(help="What to call it; its server registers under this.")],
    ssh: _SshHost = None,
    adb: _AdbSerial = None,
    tracker: Annotated[
        str, typer.Option(help="The tracker that its server will register at, host:port.")
    ] = "127.0.0.1:9190",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The profile to write, KEY.toml else.")
    ] = None,
) -> None:
    """Write a profile for a device by looking at it."""
    from tvm_mnas.devices.core.profile import parse_tracker
    from tvm_mnas.devices.servers.describe import inspect_device

    path = output if output is not None else Path(f"{key}.toml")
    if path.exists():
        raise ConfigError(f"{path} is there already; name another file with -o, or remove it")
    profile = inspect_device(_reach(ssh, adb), key=key, tracker=parse_tracker(tracker))
    try:
        path.write_text(profile.to_toml(), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}; name another file") from error
    OUTPUT.print(f"{path}: {profile.description}, core {profile.core}", markup=False)


@device_app.command()
def push(
    profile: _Profile,
    ssh: _SshHost = None,
    adb: _AdbSerial = None,
    port: Annotated[
        int, typer.Option(help="Its port, there and here; each device takes another.")
    ] = 9090,
) -> None:
    """Put the server on a device, start it, forward its ports, and keep all that up until interrupted."""
    from tvm_mnas.devices.core.profile import read_profile
    from tvm_mnas.devices.servers.push import Service, install, supervise

    chosen = read_profile(profile)
    if chosen.tracker is None:
        raise ConfigError(f"{profile} is of this machine, and `device push` is for others")
    if not 1024 <= port <= 65534:
        raise ConfigError(f"--port must lie in 1024..65534, not {port}")
    reach = _reach(ssh, adb)
    service = Service(key=chosen.key, tracker=chosen.tracker, port=port, core=chosen.core)
    directory = install(reach, cache=None)
    stop = threading.Event()
    # A service manager ends with SIGTERM what a user ends with Ctrl-C; neither is a failure.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    supervise(
        reach,
        directory,
        service,
        stop=stop,
        on_state=lambda line: MESSAGES.print(line, markup=False),
    )


@device_app.command()
def doctor(
    profile: _Profile = "local",
    ssh: _SshHost = None,
    adb: _AdbSerial = None,
    as_json: AsJson = False,
) -> None:
    """Look at a device step by step, and say what to do about what is wrong; fails if something is."""
    from tvm_mnas.devices.core.profile import load_profile
    from tvm_mnas.workflows.doctor import Finding, diagnose

    chosen = load_profile(profile)
    reach = None if ssh is None and adb is None else _reach(ssh, adb)
    steps = list(diagnose(chosen, reach=reach))
    columns = (
        Column("step", "name", number=False),
        Column("", "verdict", number=False),
        Column("found", "finding", number=False, wraps=True),
        Column("do", "remedy", number=False, wraps=True),
    )
    rows = [asdict(step) for step in steps]
    print_table(f"Device {chosen.key}", columns, rows, as_json=as_json)
    if steps[-1].verdict is Finding.FAILED:
        raise typer.Exit(1)


def _reach(ssh: str | None, adb: str | None) -> Reach:
    from tvm_mnas.devices.servers.reach import Adb, Ssh

    if ssh is not None and adb is None:
        return Ssh(ssh)
    if adb is not None and ssh is None:
        return Adb(adb)
    raise ConfigError(
        "a device is reached by --ssh HOST or by --adb SERIAL, one of them; `adb devices` lists serial numbers"
    )


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
