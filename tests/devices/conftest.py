"""A local farm on this machine's real tracker and server, and kernels written in C that behave and misbehave.

TVM calls a kernel through one C function, so a compiler is all it takes to make one that hangs or crashes.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tvm_mnas.devices.core.profile import DeviceProfile, read_profile
from tvm_mnas.devices.farm.farm import Farm, open_farm

KERNEL = "int __tvm_ffi_main(void *self, const void *arguments, int count, void *result)"
BODIES = {
    "good": "volatile float x = 0; for (int i = 0; i < 20000; ++i) x += 1.0f; return 0;",
    "slow": "usleep(1500000); return 0;",
    "nap": "usleep(150000); return 0;",
    # As long as the file says that the environment of its server names: a device of any speed.
    "reference": 'int us = 2000; FILE *f = fopen(getenv("NAP_FILE"), "r"); if (f) { fscanf(f, "%d", &us); fclose(f); }'
    " usleep(us); return 0;",
    "crash": "raise(SIGSEGV); return 0;",
    "hang": "for (;;) pause();",
    "error": 'TVMFFIErrorSetRaisedFromCStr("ValueError", "the kernel says no"); return -1;',
}


@pytest.fixture(scope="session")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a shared library for each body."""
    directory = tmp_path_factory.mktemp("kernels")
    paths = {}
    for name, body in BODIES.items():
        source = directory / f"{name}.c"
        source.write_text(
            "#include <signal.h>\n#include <stdio.h>\n#include <stdlib.h>\n#include <unistd.h>\n"
            "void TVMFFIErrorSetRaisedFromCStr(const char *kind, const char *message);\n"
            f"{KERNEL} {{ {body} }}\n"
        )
        paths[name] = directory / f"{name}.so"
        subprocess.run(
            ["gcc", "-shared", "-fPIC", "-O1", "-o", paths[name], source], check=True, timeout=60
        )
    return paths


@pytest.fixture(scope="session")
def profile() -> DeviceProfile:
    """Return the shipped profile of this machine, without importing TVM for its target."""
    return read_profile("local")


@pytest.fixture(scope="module")
def farm(profile: DeviceProfile, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    """Yield a running local farm."""
    with open_farm(profile, work_directory=tmp_path_factory.mktemp("farm")) as opened:
        yield opened


@pytest.fixture(scope="session")
def processes_of() -> Callable[[Path], list[psutil.Process]]:
    """Return a function: directory -> processes that work there, all that a farm there has started."""

    def find(directory: Path) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                inside = Path(process.cwd()).is_relative_to(directory.resolve())
                if inside and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return found

    return find
