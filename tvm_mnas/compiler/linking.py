"""Turns object files into a shared library with a linker alone: neither for this machine nor for a board is
a C compiler needed, because TVM's code calls nothing but what the process that loads it has already.
"""

from __future__ import annotations

import importlib.util
import platform
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tvm_mnas.errors import BuildError

_TRIPLES = {
    "x86_64": "x86_64-linux-gnu",
    "aarch64": "aarch64-linux-gnu",
    "arm": "arm-linux-gnueabihf",
    "armv7l": "arm-linux-gnueabihf",
    "riscv64": "riscv64-linux-gnu",
}
_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Linker:
    """A linker by its command, which `-shared -o OUTPUT OBJECTS` is appended to."""

    command: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.command:
            raise ValueError("a linker needs a command")

    def link(self, objects: Sequence[Path], output: Path) -> None:
        """Write the shared library `output` made of `objects`.

        Raises:
            BuildError: if the linker fails.
        """
        command = [*self.command, "-shared", "-o", str(output), *map(str, objects)]
        try:
            done = subprocess.run(command, capture_output=True, timeout=_TIMEOUT_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BuildError(f"the linker {self.command[0]} does not run: {error}") from error
        if done.returncode != 0:
            message = done.stderr.decode(errors="replace").strip().splitlines()
            raise BuildError(
                f"the linker {self.command[0]} must accept {output.name}, not fail with status "
                f"{done.returncode}: {message[-1] if message else 'no message'}"
            )

    def as_fcompile(self) -> Callable[..., None]:
        """Return the function that TVM's `export_library` takes to link with."""

        def link(output: str, objects: Sequence[str], *_: object, **__: object) -> None:
            self.link([Path(item) for item in objects], Path(output))

        link.output_format = "so"  # type: ignore[attr-defined]
        return link


def find_linker(architecture: str) -> Linker:
    """Return a linker for `architecture`, the first part of an LLVM triple such as "aarch64".

    Raises:
        BuildError: if there is none; it says what to install.
    """
    triple = _TRIPLES.get(architecture, f"{architecture}-linux-gnu")
    names = [f"{triple}-ld", "ld.lld"]
    if architecture == platform.machine():
        names.insert(0, "ld")
    for name in names:
        found = shutil.which(name)
        if found is not None:
            return Linker((found,))
    package = importlib.util.find_spec("ziglang")
    for location in (package.submodule_search_locations if package else None) or ():
        zig = Path(location) / "zig"
        if zig.exists():
            return Linker((str(zig), "ld.lld"))
    debian = "binutils" if architecture == platform.machine() else f"binutils-{triple}"
    raise BuildError(
        f"linking for {architecture} needs one of {', '.join(names)} or the package ziglang, and there "
        f"is none; type: apt-get install {debian.replace('_', '-')}, or: pip install ziglang"
    )
