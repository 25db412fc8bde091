"""Makes a profile by looking at a device: its cores, their highest clocks, their models and features.

ARM's kernels name a core by two numbers; the table here says what LLVM calls it, as LLVM's own host detection does
(llvm/lib/TargetParser/Host.cpp). Imports TVM to ask which features a name implies.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from tvm_mnas.devices.core.host import hidden_features
from tvm_mnas.devices.core.profile import DeviceProfile, TimingSettings
from tvm_mnas.devices.core.tracker import TrackerAddress
from tvm_mnas.devices.servers.reach import Reach, run_there
from tvm_mnas.errors import ProfileError

LOOK = (
    "uname -m; for c in /sys/devices/system/cpu/cpu[0-9]*; do "
    "echo frequency ${c##*cpu} $(cat $c/cpufreq/cpuinfo_max_freq 2>/dev/null); done; cat /proc/cpuinfo"
)
"""What is asked of the device's shell; `describe_device` reads the answer."""

_TRIPLES = {
    "aarch64": "aarch64-linux-gnu",
    "armv7l": "armv7l-linux-gnueabihf",
    "armv8l": "armv7l-linux-gnueabihf",
    "x86_64": "x86_64-linux-gnu",
}

_CPUS: Mapping[tuple[int, int], str] = {
    (0x41, 0xC07): "cortex-a7",
    (0x41, 0xC08): "cortex-a8",
    (0x41, 0xC09): "cortex-a9",
    (0x41, 0xC0F): "cortex-a15",
    (0x41, 0xC0E): "cortex-a17",
    (0x41, 0xD03): "cortex-a53",
    (0x41, 0xD04): "cortex-a35",
    (0x41, 0xD05): "cortex-a55",
    (0x41, 0xD07): "cortex-a57",
    (0x41, 0xD08): "cortex-a72",
    (0x41, 0xD09): "cortex-a73",
    (0x41, 0xD0A): "cortex-a75",
    (0x41, 0xD0B): "cortex-a76",
    (0x41, 0xD0C): "neoverse-n1",
    (0x41, 0xD0D): "cortex-a77",
    (0x41, 0xD40): "neoverse-v1",
    (0x41, 0xD41): "cortex-a78",
    (0x41, 0xD44): "cortex-x1",
    (0x41, 0xD46): "cortex-a510",
    (0x41, 0xD47): "cortex-a710",
    (0x41, 0xD48): "cortex-x2",
    (0x41, 0xD49): "neoverse-n2",
    (0x41, 0xD4B): "cortex-a78c",
    (0x41, 0xD4D): "cortex-a715",
    (0x41, 0xD4E): "cortex-x3",
    (0x41, 0xD4F): "neoverse-v2",
    (0x51, 0x201): "kryo",
    (0x51, 0x205): "kryo",
    (0x51, 0x211): "kryo",
    (0x51, 0x800): "cortex-a73",
    (0x51, 0x801): "cortex-a73",
    (0x51, 0x802): "cortex-a75",
    (0x51, 0x803): "cortex-a75",
    (0x51, 0x804): "cortex-a76",
    (0x51, 0x805): "cortex-a76",
}

DEVICE_TIMING = TimingSettings(repeat=20, min_repeat_ms=20, cooldown_s=0.1)
"""For a device that is cooled by nothing but air: a rest after every sample."""


@dataclass(frozen=True, slots=True)
class CpuCore:
    """One core: its number, its highest clock in kHz (0 where unreadable), what /proc/cpuinfo says about it."""

    number: int
    max_khz: int
    facts: Mapping[str, str]


def inspect_device(reach: Reach, *, key: str, tracker: TrackerAddress) -> DeviceProfile:
    """Return a profile for the fastest core of the device.

    Raises:
        DeviceLostError: if it cannot be reached.
        ProfileError: if its architecture or its core is not known here.
    """
    return describe_device(run_there(reach, LOOK), key=key, tracker=tracker)


def describe_device(answer: str, *, key: str, tracker: TrackerAddress) -> DeviceProfile:
    """Return a profile for the fastest core that `answer`, what `LOOK` printed, tells of.

    Raises what `inspect_device` raises.
    """
    machine, cores = _read_answer(answer)
    triple = _TRIPLES.get(machine)
    if triple is None:
        raise ProfileError(
            f"a device's machine must be one of {', '.join(_TRIPLES)}, not {machine!r}; "
            "write its profile by hand: copy rpc/profiles/rpi4.toml"
        )
    # The last of the fastest: the first core takes the interrupts.
    core = max(cores, key=lambda core: (core.max_khz, core.number))
    cpu = _llvm_name(machine, core)
    flags = frozenset(core.facts.get("Features", core.facts.get("flags", "")).split())
    off = hidden_features(triple, cpu, flags, machine=machine)
    attributes = [f"-{feature}" for feature in off]
    if machine != "x86_64":
        attributes.insert(0, "+neon")
    target: dict[str, object] = {"kind": "llvm", "mtriple": triple, "mcpu": cpu, "num-cores": 1}
    if attributes:
        target["mattr"] = attributes
    clock = f" at {core.max_khz / 1e6:.2f} GHz" if core.max_khz else ""
    return DeviceProfile(
        key=key,
        target=json.dumps(target, sort_keys=True),
        description=f"one {cpu} core{clock} of {len(cores)}",
        core=core.number,
        tracker=tracker,
        timing=DEVICE_TIMING,
    )


def _read_answer(answer: str) -> tuple[str, list[CpuCore]]:
    lines = answer.splitlines()
    machine = lines[0].strip() if lines else ""
    clocks: dict[int, int] = {}
    facts: dict[int, dict[str, str]] = {}
    shared: dict[str, str] = {}
    number: int | None = None
    for line in lines[1:]:
        words = line.split()
        if len(words) in (2, 3) and words[0] == "frequency" and words[1].isdecimal():
            clocks[int(words[1])] = int(words[2]) if len(words) == 3 else 0
            continue
        name, colon, value = (part.strip() for part in line.partition(":"))
        if not colon:
            continue
        if name == "processor" and value.isdecimal():
            number = int(value)
            facts[number] = {}
        elif number is None:
            shared[name] = value
        else:
            facts[number][name] = value
    if not facts:
        raise ProfileError(
            f"/proc/cpuinfo lists a device's processors, and it gave {answer[:60]!r}"
        )
    return machine, [
        CpuCore(number, clocks.get(number, 0), {**shared, **facts[number]})
        for number in sorted(facts)
    ]


def _llvm_name(machine: str, core: CpuCore) -> str:
    if machine == "x86_64":
        return "x86-64-v3" if "avx2" in core.facts.get("flags", "").split() else "x86-64"
    numbers = [core.facts.get(name, "") for name in ("CPU implementer", "CPU part")]
    try:
        implementer, part = (int(number, 16) for number in numbers)
    except ValueError:
        implementer, part = -1, -1
    name = _CPUS.get((implementer, part))
    if name is None:
        raise ProfileError(
            f"core {core.number} is implementer {numbers[0] or '?'} part {numbers[1] or '?'}, which is not known here; "
            "write its profile by hand, with LLVM's name of it as mcpu: copy rpc/profiles/rpi4.toml"
        )
    return name
