"""The reference kernel: which devices it leaves alone, and when it says that one has changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tvm_mnas.devices.core.profile import DeviceProfile, TimingSettings
from tvm_mnas.devices.farm.channel import WorkerReply, WorkerStatus
from tvm_mnas.devices.farm.reference import LASTING, REST_S, Reference, ReferenceWatch
from tvm_mnas.errors import DeviceLostError

REFERENCE = Reference(path=Path("reference.so"), arguments=())
PROFILE = DeviceProfile(
    key="board", target='{"kind": "llvm", "num-cores": 1}', timing=TimingSettings(max_spread=0.1)
)


@dataclass
class Device:
    """Answers with these times in seconds, one after another, the last one for ever."""

    name: str
    times_s: Sequence[float | WorkerStatus]
    asked: int = 0
    _left: Iterator[float | WorkerStatus] = field(init=False)

    def __post_init__(self) -> None:
        self._left = iter(self.times_s)

    def time_reference(self, reference: Reference, *, deadline_s: float) -> WorkerReply:
        assert reference is REFERENCE
        assert deadline_s > 0
        self.asked += 1
        answer = next(self._left, self.times_s[-1])
        if isinstance(answer, WorkerStatus):
            return WorkerReply(answer, {"message": "no"})
        return WorkerReply(WorkerStatus.OK, {"samples_s": [answer] * 3})


def watch(warnings: list[str]) -> ReferenceWatch:
    return ReferenceWatch(REFERENCE, PROFILE, on_warning=warnings.append)


def test_twins_of_one_speed_measure_and_are_timed_once() -> None:
    warnings: list[str] = []
    watched = watch(warnings)
    devices = [Device("a", [1e-3]), Device("b", [1.4e-3])]
    assert all(watched.admits(device) for device in devices * 3)
    assert [device.asked for device in devices] == [REFERENCE.timing.attempts] * 2
    assert watched.slow() == {}
    assert warnings == []


@pytest.mark.parametrize("slow_first", [True, False])
def test_one_a_hundred_times_slower_than_its_twin_does_not_measure(slow_first: bool) -> None:
    warnings: list[str] = []
    watched = watch(warnings)
    slow, fast = Device("slow", [0.1]), Device("fast", [1e-3])
    for device in (slow, fast) if slow_first else (fast, slow):
        watched.admits(device)
    assert watched.admits(fast)
    assert not watched.admits(slow)
    assert list(watched.slow()) == ["slow"]
    (line,) = warnings
    assert line.startswith("device board, slow: is left alone: its reference kernel takes 100 ms")
    assert "100.0 times as long as that of fast" in line
    assert line.endswith("is not taken back") == slow_first


def test_a_device_that_was_only_slow_for_a_while_measures_again() -> None:
    now = [0.0]
    warnings: list[str] = []
    watched = ReferenceWatch(REFERENCE, PROFILE, on_warning=warnings.append, clock=lambda: now[0])
    tries = REFERENCE.timing.attempts
    fast, slow = Device("fast", [1e-3]), Device("slow", [*[0.1] * tries, *[0.2] * tries, 1e-3])
    assert watched.admits(slow, to_measure=False)
    assert watched.admits(fast)
    for wait_s, asked, admitted in ((REST_S, 1, False), (1, 2, False), (REST_S + 1, 3, True)):
        assert list(watched.slow()) == ["slow"]
        now[0] += wait_s
        assert watched.admits(slow) is admitted
        assert slow.asked == asked * tries
    assert watched.slow() == {}
    assert watched.admits(fast)
    # Nothing was measured before it was refused, so there is nothing to take back.
    assert ["taken back" in line for line in warnings] == [False, False]


def test_a_moment_of_noise_is_no_change_and_a_slower_clock_is() -> None:
    watched = watch([])
    device = Device("a", [2e-3, 1e-3, 1e-3, 1.05e-3, 3e-3, 1.02e-3, 1.5e-3, 1.3e-3, 1.4e-3, 0.5e-3])
    assert watched.admits(device)
    for time_s, change in ((1.05e-3, 0.05), (1.02e-3, 0.02), (1.3e-3, 0.3), (0.5e-3, -0.5)):
        reading = watched.read(device, deadline_s=1)
        assert reading is not None
        assert reading.time_s == time_s
        assert reading.change == pytest.approx(change)


def test_one_on_which_it_does_not_run_is_not_judged() -> None:
    warnings: list[str] = []
    watched = watch(warnings)
    device = Device("a", [WorkerStatus.FAILED])
    assert watched.admits(device)
    assert watched.admits(Device("b", [1e-3]))
    assert watched.read(device, deadline_s=1) is None
    assert (watched.slow(), warnings) == ({}, [])
    for nonsense in (float("nan"), 0.0):
        odd = Device(f"odd {nonsense}", [nonsense])
        assert watched.admits(odd)
        assert watched.read(odd, deadline_s=1) is None


@pytest.mark.parametrize("status", [WorkerStatus.LOST, WorkerStatus.HUNG])
def test_one_that_is_lost_at_it_is_tried_again_later(status: WorkerStatus) -> None:
    watched = watch([])
    device = Device("a", [status, 1e-3, 1e-3, 1e-3, status])
    assert not watched.admits(device)
    assert watched.admits(device)
    with pytest.raises(DeviceLostError, match="reference kernel: no"):
        watched.read(device, deadline_s=1)


def kept(watched: ReferenceWatch, device: Device, latencies: int) -> list[float]:
    """Read and keep the reference after so many latencies; return how far each was from the level."""
    changes: list[float] = []
    for _ in range(latencies):
        reading = watched.read(device, deadline_s=1)
        assert reading is not None
        changes.append(watched.keep(device, reading).change)
    return changes


def times_s(*steps: tuple[int, float]) -> list[float]:
    """Return what a device answers that keeps a speed for so many latencies; one that moved is read three times."""
    tries, level, answers = REFERENCE.timing.attempts, steps[0][1], [steps[0][1]] * 3
    for count, speed in steps:
        for latency in range(count):
            moved = abs(speed / level - 1) > PROFILE.timing.max_spread
            answers += [speed] * (tries if moved else 1)
            if moved and latency == LASTING - 1:
                level = speed
    return answers


def test_a_change_that_lasts_is_the_new_level_and_is_said_once() -> None:
    warnings: list[str] = []
    watched = watch(warnings)
    device = Device("a", times_s((4, 1e-3), (5, 0.7e-3), (4, 1.6e-3), (LASTING - 1, 1e-3)))
    assert watched.admits(device)
    assert kept(watched, device, 4) == pytest.approx([0.0] * 4)
    assert kept(watched, device, 5) == pytest.approx([-0.3, -0.3, 0.0, 0.0, 0.0])
    assert watched.levels_s() == (0.7e-3,)
    up = 1.6 / 0.7 - 1
    assert kept(watched, device, 4) == pytest.approx([up, up, 0.0, 0.0])
    assert warnings == [
        f"device board, a: the device's reference kernel takes {text} than before; "
        "that is its level from now on"
        for text in ("30.0% less", "128.6% longer")
    ]
    assert kept(watched, device, LASTING - 1) == pytest.approx([1 / 1.6 - 1] * (LASTING - 1))
    assert watched.levels_s() == (1.6e-3,)
    assert len(warnings) == 2


def test_changes_that_do_not_agree_or_pass_are_no_level() -> None:
    warnings: list[str] = []
    watched = watch(warnings)
    moved = [2e-3] * 3
    wandering = [speed for speed in (2e-3, 3e-3, 4e-3, 2e-3, 3e-3) for _ in range(3)]
    device = Device("a", [*[1e-3] * 3, *moved, *moved, 1.05e-3, *moved, *moved, 1e-3, *wandering])
    assert watched.admits(device)
    changes = [1.0, 1.0, 0.05, 1.0, 1.0, 0.0, 1.0, 2.0, 3.0, 1.0, 2.0]
    assert kept(watched, device, len(changes)) == pytest.approx(changes)
    assert (watched.levels_s(), warnings) == ((1e-3,), [])


def test_one_that_became_far_slower_than_its_twin_for_good_measures_no_more() -> None:
    warnings: list[str] = []
    watched = watch(warnings)
    throttled, twin = Device("a", times_s((1, 1e-3), (LASTING, 4e-3))), Device("b", [1e-3])
    assert watched.admits(throttled)
    assert watched.admits(twin)
    kept(watched, throttled, 1 + LASTING)
    assert not watched.admits(throttled)
    assert watched.levels_s() == (1e-3,)
    assert [line.partition(": ")[2][:14] for line in warnings] == [
        "the device's r",
        "is left alone:",
    ]
    assert warnings[1].endswith("what it measured before is not taken back")
