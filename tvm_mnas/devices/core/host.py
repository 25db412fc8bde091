"""What this machine is: its cores, its LLVM target, and the facts that identify it in a measurement.

`device_facts` also runs inside the RPC server, so that a board reports itself the same way as the host does.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from tvm_mnas.devices.core.cores import available_cores, throttled_us

# Linux's name of a CPU feature -> LLVM's. A hypervisor may hide a feature that LLVM attributes to the
# CPU model by its name; code built for it would die of SIGILL.
_LLVM_FEATURE_OF_FLAG = {
    "x86_64": {
        "fma": "fma",
        "f16c": "f16c",
        "avx": "avx",
        "avx2": "avx2",
        "avx512f": "avx512f",
        "avx512bw": "avx512bw",
        "avx512cd": "avx512cd",
        "avx512dq": "avx512dq",
        "avx512vl": "avx512vl",
        "avx512_vnni": "avx512vnni",
        "avx512_bf16": "avx512bf16",
        "avx512_fp16": "avx512fp16",
        "avx_vnni": "avxvnni",
        "amx_tile": "amx-tile",
    },
    "aarch64": {
        "asimddp": "dotprod",
        "fphp": "fullfp16",
        "sve": "sve",
        "i8mm": "i8mm",
        "bf16": "bf16",
    },
}


_CLOCK_FILES = {
    "frequency_khz": "scaling_cur_freq",
    "limit_khz": "scaling_max_freq",
    "max_khz": "cpuinfo_max_freq",
    "governor": "scaling_governor",
}


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The facts that identify a device, and a short hash of them.

    Two latencies compare only where their fingerprints are equal.
    """

    facts: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, facts: Mapping[str, object]) -> Fingerprint:
        """Return the fingerprint of `facts`, in an order of its own."""
        return cls(tuple(sorted((str(name), str(value)) for name, value in facts.items())))

    @property
    def digest(self) -> str:
        """12 hex digits, the same for the same facts in every process."""
        return hashlib.sha256(json.dumps(self.facts).encode()).hexdigest()[:12]

    def to_dict(self) -> dict[str, str]:
        """Return the facts for a manifest."""
        return dict(self.facts)


def device_facts() -> dict[str, str]:
    """Return CPU model, cores, highest frequency, machine, kernel, libc and TVM version of this machine."""
    return {
        "cpu": _cpu_model(),
        "cores": str(os.cpu_count() or 1),
        "max_frequency_khz": _read(Path("/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq"))
        or "unknown",
        "machine": platform.machine(),
        "kernel": platform.release(),
        "libc": " ".join(platform.libc_ver()).strip() or "unknown",
        "tvm": tvm_version(),
    }


def device_state() -> dict[str, str]:
    """Return clocks and heat of the core that this process runs on, of what is readable.

    `frequency_khz` is the clock now, `limit_khz` what it may be at most now, `max_khz` what the core can do;
    `governor` sets it; `temperature_mc` is the hottest sensor's, in thousandths of a degree Celsius; `throttled_us` how
    long a container's quota has stopped us so far.
    """
    core = available_cores()[-1]
    directory = Path(f"/sys/devices/system/cpu/cpu{core}/cpufreq")
    found = {name: _read(directory / file) for name, file in _CLOCK_FILES.items()}
    heat = [_read(path) for path in Path("/sys/class/thermal").glob("thermal_zone*/temp")]
    degrees = [int(text) for text in heat if text.lstrip("-").isdecimal()]
    if degrees:
        found["temperature_mc"] = str(max(degrees))
    stopped_us = throttled_us()
    if stopped_us is not None:
        found["throttled_us"] = str(stopped_us)
    return {name: value for name, value in found.items() if value}


def tvm_version() -> str:
    """Return the version of the installed TVM without importing it, or "unknown"."""
    for distribution in ("apache-tvm", "tvm"):
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return "unknown"


@contextmanager
def reserved_core(core: int | None) -> Iterator[tuple[int, ...]]:
    """Keep every thread of this process, and what it starts meanwhile, off `core`; yields the cores left.

    For measuring on the machine that also builds and trains. Does nothing for `None`, where it is the only
    core, or where the system cannot tell. Threads that others start or end meanwhile are their own affair.
    """
    left = tuple(number for number in available_cores() if number != core)
    if core is None or not left or not hasattr(os, "sched_setaffinity"):
        yield available_cores()
        return
    before = {}
    for thread in _threads():
        with suppress(OSError):
            before[thread] = os.sched_getaffinity(thread)
            os.sched_setaffinity(thread, left)
    try:
        yield left
    finally:
        for thread in _threads():
            with suppress(OSError):
                os.sched_setaffinity(thread, before.get(thread, {*left, core}))


def _threads() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc/self/task")]
    except OSError:
        return [0]


def detect_target(*, threads: int) -> str:
    """Return the JSON text of the TVM target that describes this machine's CPU.

    `num-cores` is `threads`: MetaSchedule will not tune without it. Imports TVM.
    """
    from tvm.target import codegen

    cpu = str(codegen.llvm_get_system_cpu())
    target: dict[str, object] = {"kind": "llvm", "mcpu": cpu, "num-cores": threads}
    triple = str(codegen.llvm_get_system_triple())
    missing = hidden_features(triple, cpu, _cpu_flags(), machine=platform.machine())
    if missing:
        target["mtriple"] = triple
        target["mattr"] = [f"-{feature}" for feature in missing]
    # As a profile that is read has it: a store is named after this text.
    return json.dumps(target, sort_keys=True)


def hidden_features(triple: str, cpu: str, flags: frozenset[str], *, machine: str) -> list[str]:
    """Return the LLVM features that the CPU's name implies and that its kernel's `flags` lack. Imports TVM."""
    from tvm.target import Target, codegen

    feature_of_flag = _LLVM_FEATURE_OF_FLAG.get(machine, {})
    if not flags or not feature_of_flag:
        return []
    described = Target({"kind": "llvm", "mtriple": triple, "mcpu": cpu})
    implied = {str(feature) for feature in codegen.llvm_get_cpu_features(described)}
    return sorted(
        feature
        for flag, feature in feature_of_flag.items()
        if feature in implied and flag not in flags
    )


def _cpu_lines() -> list[tuple[str, str]]:
    text = _read(Path("/proc/cpuinfo"))
    pairs = (line.partition(":") for line in text.splitlines())
    return [(name.strip(), value.strip()) for name, colon, value in pairs if colon]


def _cpu_flags() -> frozenset[str]:
    for name, value in _cpu_lines():
        if name in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def _cpu_model() -> str:
    lines = dict(reversed(_cpu_lines()))
    if "model name" in lines:
        numbers = "/".join(lines.get(name, "?") for name in ("cpu family", "model", "stepping"))
        return f"{lines['model name']} {numbers}"
    # ARM kernels give numbers only; big and little cores differ, so all of them count.
    parts = sorted({value for name, value in _cpu_lines() if name == "CPU part"})
    return f"implementer {lines.get('CPU implementer', '?')} part {','.join(parts) or '?'}"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
