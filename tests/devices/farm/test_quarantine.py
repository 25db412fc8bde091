"""Who fails rests, longer each time, and comes back by himself."""

from __future__ import annotations

from tvm_mnas.devices.farm.quarantine import FIRST_S, LONGEST_S, Quarantine


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_device_that_cannot_be_reached_rests_twice_as_long_each_time() -> None:
    clock = Clock()
    quarantine = Quarantine(clock=clock)
    rests = []
    for _ in range(8):
        quarantine.unreachable("a:1", "gone")
        assert quarantine.blocked() == {"a:1": "gone"}
        began = clock.now
        while quarantine.blocked():
            clock.now += 0.5
        rests.append(clock.now - began)
    assert rests[:3] == [FIRST_S, 2 * FIRST_S, 4 * FIRST_S]
    assert rests[-1] == LONGEST_S


def test_one_failure_at_work_may_be_the_works_doing() -> None:
    quarantine = Quarantine(clock=Clock())
    quarantine.failed("a:1", "hung")
    assert quarantine.blocked() == {}
    quarantine.failed("a:1", "hung")
    quarantine.failed("b:1", "hung")
    assert quarantine.blocked() == {"a:1": "hung"}


def test_work_that_is_done_clears_it() -> None:
    quarantine = Quarantine(clock=Clock())
    quarantine.unreachable("a:1", "gone")
    quarantine.worked("a:1")
    quarantine.failed("a:1", "hung")
    assert quarantine.blocked() == {}
