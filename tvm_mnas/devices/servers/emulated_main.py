"""A device that is emulated here: `python -m tvm_mnas.devices.servers.emulated_main ...` is a server under qemu-user.

The server, its libraries and the code that it runs are those of the bundle for a real device (bundle.py), down to the
loader. What is timed there is the emulator, not a device: such times rank nothing, and whatever shows one says so.
Kernels are ranked by their instructions, which the emulator counts (emulator.py).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tvm_mnas.devices.servers.bundle import ARCHITECTURES
from tvm_mnas.devices.servers.emulator import find_emulator
from tvm_mnas.devices.servers.local_main import free_port
from tvm_mnas.processes import die_with_parent


def emulated_command(architecture: str, bundle: Path, options: Sequence[str]) -> list[str]:
    """Return the command that runs the server of an unpacked `bundle` with `options` under emulation."""
    loader = bundle / "lib" / ARCHITECTURES[architecture].loader
    # Without its loader's name the emulator would look for one in this machine's /lib.
    return find_emulator(architecture).command(
        [
            *(str(loader), "--library-path", str(bundle / "lib")),
            *(str(bundle / "server"), *options),
        ]
    )


def main(arguments: Sequence[str]) -> None:
    """Become the emulated server; ends with the process that started this one."""
    die_with_parent()
    parser = argparse.ArgumentParser(prog="python -m tvm_mnas.devices.servers.emulated_main")
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True, help="the tracker's port")
    parser.add_argument("--key", required=True)
    parser.add_argument("--architecture", required=True)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--core", default=None)
    chosen = parser.parse_args(arguments)
    options = [
        *("--tracker", f"{chosen.host}:{chosen.port}", "--key", chosen.key, "--bind", chosen.host),
        *("--port", str(free_port(chosen.host)), "--port-end", "65536"),
    ]
    if chosen.core is not None:
        options += ["--core", chosen.core]
    command = emulated_command(chosen.architecture, chosen.bundle, options)
    os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
