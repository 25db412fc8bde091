"""Which kernel the next schedules go to: the one that is expected to save the networks most time. Arithmetic alone.

Equal budgets spend most schedules where nothing is left to gain: on kernels that take a hundredth of the run time,
and on those whose best schedule was among the first. Here a budget belongs to all kernels together. Each gets a first
round; then every round goes where `weight x best time x expected improvement` is largest, until nothing is left.
What a kernel is expected to gain follows from what its last rounds gained, in the manner of Ansor's task scheduler
(Zheng et al., OSDI 2020, section 6), whose gradient is taken over networks as here over the candidates that are wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

FIRST_GUESS = 0.05
"""The improvement expected of a second round, before anything is known of the kernel."""
DECAY = 0.5
"""What a round gains is expected to be this part of what the round before gained."""
STALLED = 0.01
"""A round that gains less, as a part of the best time, gained nothing: so much is noise."""
STALLED_ROUNDS = 3
"""After so many rounds in a row without a gain a kernel gets no more."""
MOST = 4
"""A kernel gets at most so many times its equal share."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelProgress:
    """One kernel on its way: how much it matters, and the best time after each of its rounds.

    `weight` is how often the networks run it; `curve_us` holds microseconds, falling, and nothing for rounds in which
    no schedule ran yet; `exhausted` says that there are no more schedules or that it has had all that it may.
    """

    weight: float
    rounds: int
    curve_us: tuple[float, ...]
    exhausted: bool = False

    def __post_init__(self) -> None:
        if self.weight <= 0 or self.rounds < len(self.curve_us):
            raise ValueError(
                f"a kernel must have a weight above 0 and a time per round at most, not {self}"
            )

    @property
    def stalled(self) -> bool:
        """Whether the last rounds gained nothing."""
        gains = self._gains()
        return len(gains) >= STALLED_ROUNDS and max(gains[-STALLED_ROUNDS:]) < STALLED

    @property
    def expected_gain_us(self) -> float:
        """What one more round is expected to save all networks together, in microseconds."""
        gains = self._gains()
        # Later schedules are less promising, but a round without luck says little.
        expected = FIRST_GUESS / (1 + len(gains)) ** 2
        for age, gain in enumerate(reversed(gains[-2:])):
            expected = max(expected, DECAY ** (1 + age) * gain)
        return self.weight * self.curve_us[-1] * expected

    def _gains(self) -> list[float]:
        pairs = zip(self.curve_us, self.curve_us[1:], strict=False)
        return [1 - after / before for before, after in pairs]


def next_kernel(kernels: Sequence[KernelProgress]) -> int | None:
    """Return the index of the kernel that gets the next round, None if none should.

    Those without a round come first, in their order; so do those of which no schedule ran.
    """
    open_ = [index for index, kernel in enumerate(kernels) if not kernel.exhausted]
    new = [index for index in open_ if not kernels[index].curve_us]
    if new:
        return min(new, key=lambda index: kernels[index].rounds)
    worth = [index for index in open_ if not kernels[index].stalled]
    return max(worth, key=lambda index: kernels[index].expected_gain_us, default=None)
