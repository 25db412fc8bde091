"""Cores by name: what a test lowers, schedules and builds must not follow from the machine that it runs on."""

from __future__ import annotations

import json
import platform

from tvm_mnas.devices.core.host import detect_target


def _target(triple: str, cpu: str) -> str:
    return json.dumps({"kind": "llvm", "mtriple": triple, "mcpu": cpu, "num-cores": 1})


HASWELL = _target("x86_64-linux-gnu", "haswell")
"""16 registers of 8 floats. Its code runs on every x86-64 core with AVX2."""
SKYLAKE_AVX512 = _target("x86_64-linux-gnu", "skylake-avx512")
"""32 registers of 16 floats."""
ZNVER4 = _target("x86_64-linux-gnu", "znver4")
"""32 registers of 16 floats, of which it works on 8 at once."""
CORTEX_A72 = _target("aarch64-linux-gnu", "cortex-a72")
"""32 registers of 4 floats. Its code runs on every 64-bit ARM core."""

CORTEX_A76 = _target("aarch64-linux-gnu", "cortex-a76")
"""32 registers of 4 floats, or of 8 halves."""
SAPPHIRE_RAPIDS = _target("x86_64-linux-gnu", "sapphirerapids")
"""32 registers of 16 floats, or of 32 halves."""


def runs_here() -> str:
    """Return the one of these whose code runs on this machine; on another machine, the machine's own target."""
    known = {"x86_64": HASWELL, "aarch64": CORTEX_A72}
    return known.get(platform.machine()) or detect_target(threads=1)
