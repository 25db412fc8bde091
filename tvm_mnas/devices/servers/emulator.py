"""qemu's user-mode emulator of a device, with a plugin (rpc/server/count.c) that counts the instructions run in it.

An emulator's clock ranks nothing, so kernels that are tuned under emulation are ranked by their instructions. Where
qemu takes no plugins, as one that is linked statically, the clock is what is left.
"""

from __future__ import annotations

import functools
import hashlib
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tvm_mnas.devices.servers.bundle import ARCHITECTURES, default_cache, find_compiler
from tvm_mnas.errors import BundleError
from tvm_mnas.resources import resource_directory

_TIMEOUT_S = 60.0
_CPU = "max"
"""All that qemu has of an architecture, arithmetic in half precision among it; a default may be an older core."""
_API_OF_VERSION = (((9, 1), 3), ((9, 0), 2))
"""From which version on qemu has which interface for plugins; 1 before."""


@dataclass(frozen=True, slots=True)
class Emulator:
    """qemu of one architecture: its path, and the plugin that counts, None where it takes none."""

    path: str
    plugin: Path | None

    def command(self, program: Sequence[str]) -> list[str]:
        """Return the command that runs `program` in it."""
        options = [] if self.plugin is None else ["-plugin", str(self.plugin)]
        return [self.path, "-cpu", _CPU, *options, *program]


def find_emulator(architecture: str, *, cache: Path | None = None) -> Emulator:
    """Return qemu's user-mode emulator of `architecture`, one that counts instructions where there is one.

    Its plugin is kept in `cache`, by default that of the bundles.

    Raises:
        BundleError: if there is none.
    """
    found = [
        path
        for name in (f"qemu-{architecture}", f"qemu-{architecture}-static")
        if (path := shutil.which(name)) is not None
    ]
    if not found:
        raise BundleError(
            f"emulating {architecture} needs qemu-{architecture}, and it is not there; "
            "run: apt-get install qemu-user"
        )
    for path in found if architecture == "aarch64" else ():
        plugin = _plugin(path, cache if cache is not None else default_cache())
        if plugin is not None:
            return Emulator(path, plugin)
    return Emulator(found[0], None)


@functools.cache
def _plugin(emulator: str, cache: Path) -> Path | None:
    """Return the plugin for the qemu at `emulator`, compiled when it is first asked for; None where it takes none."""
    version = _version(emulator)
    machine = ARCHITECTURES.get(platform.machine())
    if version is None or machine is None:
        return None
    api = next((api for since, api in _API_OF_VERSION if version >= since), 1)
    source = resource_directory("rpc") / "server" / "count.c"
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:12]
    plugin = cache / "servers" / f"count-{machine.name}-{api}-{digest}.so"
    if not plugin.is_file():
        try:
            compiler = find_compiler(machine)
            plugin.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=plugin.parent) as scratch:
                made = Path(scratch) / plugin.name
                options = ["-O2", "-Wall", "-Wextra", "-fPIC", "-shared", f"-DQEMU_API={api}"]
                command = [*compiler, *options, str(source), "-o", str(made)]
                subprocess.run(command, check=True, capture_output=True, timeout=_TIMEOUT_S)
                made.replace(plugin)
        except (BundleError, OSError, subprocess.SubprocessError):
            return None
    # What is wrong with a plugin is said before anything of the program, which is of this machine.
    said = _output([emulator, "-plugin", str(plugin), "/bin/sh", "-c", ""])
    return plugin if said is not None and "plugin" not in said else None


def _version(emulator: str) -> tuple[int, int] | None:
    text = _output([emulator, "--version"]) or ""
    found = re.search(r"version (\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else None


def _output(command: Sequence[str]) -> str | None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout + done.stderr
