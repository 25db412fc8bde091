"""Looks at a device step by step, the way that a search uses it: what `tvm-mnas device doctor` shows.

Each step says what was found and, where something is wrong, what to do. The first step without which the next ones
cannot be done ends the examination.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from tvm_mnas.errors import BuildError, BundleError, CandidateError, DeviceError
from tvm_mnas.evaluation.agreement import torch_judge
from tvm_mnas.evaluation.toolchain import Toolchain, ToolchainOptions, open_toolchain
from tvm_mnas.space.architecture import Architecture

if TYPE_CHECKING:
    from tvm_mnas.devices.core.profile import DeviceProfile
    from tvm_mnas.devices.farm.farm import Farm
    from tvm_mnas.devices.servers.reach import Reach

NETWORK = Architecture.parse("i32_c3_w1:stem8_s22:r1_k5_s22_e3_i8_o16:head32:n10")
"""What is tuned, run and timed: small, with each kind of convolution."""
MEASUREMENTS = 5
STEADY = 0.05
"""Medians of measurements one after another differ by less than this part of theirs on a device that is usable."""
HOT_C = 80.0
"""Above this many degrees Celsius most boards slow down."""


class Finding(StrEnum):
    """How a step ended."""

    GOOD = "good"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Step:
    """One step: what was looked at, how it ended, what was found, and what to do where it is not good."""

    name: str
    verdict: Finding
    finding: str
    remedy: str = ""


def diagnose(
    profile: DeviceProfile, *, reach: Reach | None = None, seed: int = 0
) -> Iterator[Step]:
    """Yield the steps of an examination of the device of `profile`; the last one may have failed, and then ends it."""
    if reach is not None:
        step = _reached(profile, reach)
        yield step
        if step.verdict is Finding.FAILED:
            return
    if profile.tracker is not None:
        step = _registered(profile)
        yield step
        if step.verdict is Finding.FAILED:
            return
    with tempfile.TemporaryDirectory(prefix="tvm-mnas-doctor-") as scratch:
        directory = Path(scratch)
        warnings: list[str] = []
        try:
            with open_toolchain(
                profile,
                ToolchainOptions(
                    records=directory / "records",
                    schedules_per_kernel=1,
                    seed=seed,
                ),
                logs=directory,
                scratch=directory,
                on_warning=warnings.append,
            ) as toolchain:
                # Later ones tell of a change between two latencies: that is what "steady times" shows.
                yield from [_slow(warning) for warning in warnings]
                yield from _used(toolchain, directory, seed)
        except (DeviceError, BundleError, BuildError) as error:
            yield Step("answers", Finding.FAILED, str(error), "see rpc/README.md")


def _reached(profile: DeviceProfile, reach: Reach) -> Step:
    from tvm_mnas.devices.servers.reach import run_there

    try:
        machine = run_there(reach, "uname -m")
    except DeviceError as error:
        return Step(
            "reached", Finding.FAILED, str(error), "connect it, then try the command by hand"
        )
    if not machine.startswith(profile.architecture[:3]):
        return Step(
            "reached",
            Finding.FAILED,
            f"it is a {machine}, and the profile's target is for {profile.architecture}",
            "write a profile for it: tvm-mnas device add",
        )
    return Step("reached", Finding.GOOD, f"{machine} by {reach.name}")


def _registered(profile: DeviceProfile) -> Step:
    from tvm_mnas.devices.core.tracker import TrackerClient

    assert profile.tracker is not None
    try:
        with TrackerClient(profile.tracker) as tracker:
            count = len(tracker.devices(profile.key))
    except DeviceError as error:
        return Step("registered", Finding.FAILED, str(error), "start the tracker")
    if count == 0:
        return Step(
            "registered",
            Finding.FAILED,
            f"tracker {profile.tracker} knows no {profile.key}",
            f"start its server: tvm-mnas device push {profile.key} --ssh HOST",
        )
    return Step("registered", Finding.GOOD, f"{count} at tracker {profile.tracker}")


def _used(toolchain: Toolchain, directory: Path, seed: int) -> Iterator[Step]:
    from tvm_mnas.models.network import build_network

    with toolchain.farm.lease() as lease:
        facts = lease.fingerprint.to_dict()
    about = ", ".join(
        f"{name} {facts[name]}" for name in ("cpu", "machine", "tvm") if name in facts
    )
    yield Step("answers", Finding.GOOD, about or "its server tells nothing of the device")

    network = build_network(NETWORK, seed=seed)
    shape = NETWORK.image_shape
    try:
        lowered = toolchain.lower(network, shape)
        report = toolchain.tune([lowered], on_progress=lambda done, total: None)
        failures = [reason for kernel in report.kernels for reason in kernel.failures]
        artifact = toolchain.compile(lowered, directory / "net.so")
    except CandidateError as error:
        yield Step(
            "runs kernels",
            Finding.FAILED,
            str(error),
            "compare mcpu and mattr of the profile's target with the device: tvm-mnas device add",
        )
        return
    yield Step(
        "runs kernels",
        Finding.WARNING if failures else Finding.GOOD,
        f"{len(report.kernels)} kernels tuned and run"
        + (f", with failures: {', '.join(sorted(set(failures)))}" if failures else ""),
        "look at its log" if failures else "",
    )
    try:
        judge = torch_judge(network, batch_size=shape[0])
        agreement = toolchain.check_network(artifact, judge, seed=seed)
    except CandidateError as error:
        yield Step(
            "computes right",
            Finding.FAILED,
            str(error),
            "use the same TVM there as here, and report this",
        )
        return
    yield Step(
        "computes right",
        Finding.GOOD,
        f"within {agreement.difference:.1e} of torch, relative to how far images differ",
    )
    if toolchain.profile.emulated:
        yield Step("times", Finding.GOOD, "not looked at: an emulator's times are no latencies")
        return
    before = _state(toolchain.farm)
    latencies = [toolchain.measure(artifact) for _ in range(MEASUREMENTS)]
    yield _steady([latency.latency_ms for latency in latencies])
    hot_c = toolchain.profile.max_temperature_c or HOT_C
    yield from judge_state(before, _state(toolchain.farm), hot_c=hot_c)


def _slow(warning: str) -> Step:
    return Step(
        "speed",
        Finding.WARNING,
        warning,
        "let it cool and end what else runs there, or give it a key and a profile of its own",
    )


def _steady(medians_ms: list[float]) -> Step:
    middle_ms = statistics.median(medians_ms)
    span = (max(medians_ms) - min(medians_ms)) / middle_ms
    finding = f"{MEASUREMENTS} latencies around {middle_ms:.3g} ms lie within {span:.1%}"
    if span <= STEADY:
        return Step("steady times", Finding.GOOD, finding)
    return Step(
        "steady times",
        Finding.WARNING,
        finding,
        "end what else runs there, let it cool, raise cooldown_s in its profile",
    )


def judge_state(
    before: Mapping[str, str], after: Mapping[str, str], *, hot_c: float = HOT_C
) -> Iterator[Step]:
    """Yield what the device's clocks and heat say, read before and after it was timed; `hot_c` degrees are too many."""
    limit, most = _number(after, "limit_khz"), _number(after, "max_khz")
    if limit is None or most is None:
        yield Step("clock", Finding.WARNING, "not readable there", "watch it by other means")
    elif limit < most:
        yield Step(
            "clock",
            Finding.WARNING,
            f"held to {limit / 1e6:.2f} of {most / 1e6:.2f} GHz",
            "let it cool, or lift the limit",
        )
    elif after.get("governor", "performance") not in ("performance", "userspace"):
        yield Step(
            "clock",
            Finding.WARNING,
            f"the governor {after['governor']} changes it",
            "as root there: echo performance > /sys/devices/system/cpu/cpuN/cpufreq/scaling_governor; "
            "on Android: adb shell cmd power set-fixed-performance-mode-enabled true",
        )
    else:
        yield Step("clock", Finding.GOOD, f"{most / 1e6:.2f} GHz, not held back")
    heat = [_number(state, "temperature_mc") for state in (before, after)]
    if heat[0] is None or heat[1] is None:
        yield Step("heat", Finding.WARNING, "not readable there", "watch it by other means")
        return
    finding = f"{heat[0] / 1e3:.0f} degrees Celsius before, {heat[1] / 1e3:.0f} after"
    if heat[1] / 1e3 < hot_c:
        yield Step("heat", Finding.GOOD, finding)
    else:
        yield Step("heat", Finding.WARNING, finding, "cool it, raise cooldown_s in its profile")


def _state(farm: Farm) -> Mapping[str, str]:
    with farm.lease() as lease:
        state: Mapping[str, str] = lease.state(deadline_s=10.0).values.get("state", {})
        return state


def _number(state: Mapping[str, str], name: str) -> float | None:
    text = state.get(name, "")
    return float(text) if text.lstrip("-").isdecimal() else None
