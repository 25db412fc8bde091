"""Makes a shared library of object files with a bare linker: milliseconds, and no compiler on the device.

TVM's kernels need no C library at link time, so any linker that knows the architecture does: binutils' own,
lld from LLVM or from the pip package `ziglang`.
"""

from __future__ import annotations

import importlib.util
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tvm_mnas.compiler.core.target import target_table
from tvm_mnas.errors import BuildError, raise_if_host_failed

_DEADLINE_S = 60.0
_CROSS_PREFIX = {
    "aarch64": "aarch64-linux-gnu-",
    "armv7l": "arm-linux-gnueabihf-",
    "x86_64": "x86_64-linux-gnu-",
}


@dataclass(frozen=True, slots=True)
class Linker:
    """The start of a command line that makes a shared library; objects and `-o FILE` follow."""

    command: tuple[str, ...]

    def link(self, objects: Sequence[Path], output: Path) -> None:
        """Link `objects` into the shared library `output`.

        Raises:
            BuildError: if the linker fails or cannot be started.
        """
        command = [*self.command, "-shared", "-o", str(output), *map(str, objects)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=_DEADLINE_S
            )
        except subprocess.TimeoutExpired as error:
            raise BuildError(
                f"{self.command[0]} links {output.name} within {_DEADLINE_S:g} s, and it did not"
            ) from error
        except OSError as error:
            raise BuildError(
                f"cannot start the linker {self.command[0]}: {error.strerror}"
            ) from error
        if done.returncode:
            reason = " ".join(done.stderr.split())[-300:]
            raise_if_host_failed(done.stderr)
            raise BuildError(f"{self.command[0]} cannot link {output.name}: {reason}")


def find_linker(target: str) -> Linker:
    """Return a linker for code of the TVM target `target` (its JSON text).

    Raises:
        BuildError: if there is none, naming what to install.
    """
    machine = _machine_of(target)
    names = [f"{_CROSS_PREFIX.get(machine, machine + '-linux-gnu-')}ld"]
    if machine == platform.machine():
        names = ["ld", *names]
    # lld knows every architecture that LLVM does.
    for name in [*names, "ld.lld"]:
        found = shutil.which(name)
        if found is not None:
            return Linker((found,))
    if importlib.util.find_spec("ziglang") is not None:
        return Linker((sys.executable, "-m", "ziglang", "ld.lld"))
    package = (
        "binutils"
        if machine == platform.machine()
        else f"binutils-{names[0][:-3].replace('_', '-')}"
    )
    raise BuildError(
        f"linking for {machine} needs {names[0]} or ld.lld, and neither is there; "
        f"`apt-get install {package}` or `pip install ziglang` brings one"
    )


def _machine_of(target: str) -> str:
    machine = str(target_table(target).get("mtriple", platform.machine())).partition("-")[0]
    # LLVM knows 32-bit ARM by many names; its linkers are one.
    return "armv7l" if machine == "arm" or machine.startswith("armv7") else machine
