"""What tuning and compiling ask of tuning records, wherever these lie."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tvm_mnas.compiler.core.kernel import Kernel


class TuningRecords(ABC):
    """The records for one target, wherever they lie: what tuning asks for and adds to, and compiling takes."""

    @property
    @abstractmethod
    def target(self) -> str:
        """The JSON text of the TVM target that the records are for."""

    @abstractmethod
    def keys(self) -> frozenset[str]:
        """Return the keys of the kernels that are known."""

    @abstractmethod
    def budget(self, key: str) -> int:
        """Return the largest number of schedules that the kernel was tuned to, 0 if it was not."""

    @abstractmethod
    def schedules(self, key: str) -> int:
        """Return how many schedules were measured for the kernel, failed and pruned ones included."""

    @abstractmethod
    def best_us(self, key: str) -> float | None:
        """Return the best run time of the kernel in microseconds, None if it has none."""

    @abstractmethod
    def best_record(self, key: str) -> str | None:
        """Return the record of the kernel's best schedule as MetaSchedule's JSON, None if none ran."""

    @abstractmethod
    def records_of(self, key: str) -> list[str]:
        """Return every record of the kernel as MetaSchedule's JSON, failed ones included."""

    @abstractmethod
    def add(
        self,
        kernel: Kernel,
        records: Sequence[str],
        *,
        budget: int,
        failures: Mapping[str, int],
        duration_s: float,
    ) -> None:
        """Add the `records` (MetaSchedule's JSON) that tuning `kernel` to `budget` schedules gave.

        Raises:
            RecordsError: if the disk does not take them; what was there before stays.
        """

    def __len__(self) -> int:
        """The number of kernels with a valid record."""
        return sum(self.has(key) for key in self.keys())

    def has(self, key: str) -> bool:
        """Whether the kernel with this key has a schedule that ran."""
        return self.best_us(key) is not None

    def missing(self, kernels: Iterable[Kernel], *, schedules_per_kernel: int = 1) -> list[Kernel]:
        """Return the kernels on which less than this budget was spent, in their order.

        A kernel with fewer schedules than its budget counts as done: there were no more. One that was tuned and
        never ran is not tried again with the same budget.
        """
        return [kernel for kernel in kernels if self.budget(kernel.key) < schedules_per_kernel]

    @abstractmethod
    def subset(self, kernels: Sequence[Kernel], directory: Path) -> None:
        """Write a store in `directory` with the best records of `kernels` alone: what an artifact is made of.

        Raises:
            RecordsError: if it cannot be written.
        """
