"""Evaluations out of a table: what `--evaluator table:NAME` searches on, in seconds and with nothing measured anew.

Each architecture has two trainings and two latencies of each kind. A candidate gets the accuracy of one seed and the
latency of one pass, drawn from the search's seed, so that a search sees the noise that it would have seen; the other
training is its replicate. Its steps are the run's `train_steps`, by default the table's fewest.
"""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tvm_mnas.devices.core.latency import Latency
from tvm_mnas.errors import ConfigError
from tvm_mnas.evaluation.results import Effort, Evaluation, EvaluatorRequest
from tvm_mnas.evaluation.tables.files import find_table, read_table
from tvm_mnas.evaluation.tables.table import PASSES, SEEDS, EvaluationTable, TableEntry
from tvm_mnas.space.candidate import Candidate, parse_candidate
from tvm_mnas.training.accuracy import Accuracy


@dataclass(frozen=True)
class TableEvaluator:
    """Looks candidates up in `table`; their accuracies are those after `steps`. `seed` draws which of two each gets.

    Raises:
        ConfigError: if the table has no trainings of so many steps.
    """

    table: EvaluationTable
    steps: int
    seed: int

    def __post_init__(self) -> None:
        if self.steps not in self.table.budgets:
            raise ConfigError(
                f"the table {self.table.name} has trainings of {', '.join(map(str, self.table.budgets))} steps, and "
                f"none of {self.steps}; choose one of them: --train-steps {self.table.budgets[0]}"
            )

    def evaluate(self, architectures: Sequence[Candidate]) -> Iterator[tuple[int, Evaluation]]:
        """Yield `(index, evaluation)` of each architecture, in their order.

        Raises:
            ConfigError: if one is not in the table.
        """
        for index, architecture in enumerate(architectures):
            entry = self.table.entry(architecture)
            yield (
                index,
                self._evaluation(entry, self._accuracy(entry, again=False), self._latency(entry)),
            )

    def train_again(
        self, architectures: Sequence[Candidate]
    ) -> Iterator[tuple[int, Accuracy | None]]:
        """Yield `(index, accuracy)` of each architecture's other training."""
        for index, architecture in enumerate(architectures):
            yield index, self._accuracy(self.table.entry(architecture), again=True)

    def judge(self, candidate: Candidate) -> tuple[float, float]:
        """Return what `candidate` is worth by all that the table knows: its accuracy after the longest training, the
        mean over the seeds (0..1), and its latency in ms, the mean over the passes."""
        return self.table.accuracy(candidate), self.table.latency_ms(candidate)

    def _accuracy(self, entry: TableEntry, *, again: bool) -> Accuracy:
        drawn = _draw(self.seed, "accuracy", entry.notation, SEEDS)
        return entry.accuracies[self.steps][(drawn + again) % SEEDS]

    def _latency(self, entry: TableEntry) -> Latency:
        return entry.tuned[_draw(self.seed, "latency", entry.notation, PASSES)]

    def _evaluation(self, entry: TableEntry, accuracy: Accuracy, latency: Latency) -> Evaluation:
        effort = Effort(
            training_s=accuracy.duration_s,
            kernels=len(entry.calls),
            kernel_calls=sum(entry.calls.values()),
            kernels_us=self.table.kernels_us(entry),
            moved_bytes=self.table.moved_bytes(entry),
        )
        return Evaluation.success(parse_candidate(entry.notation), accuracy, latency, effort)


def open_table(request: EvaluatorRequest, *, text: str) -> TableEvaluator:
    """Return what `--evaluator table:NAME` names; `text` is the table's name or directory.

    Raises:
        ConfigError: if there is no such table, or it is of another space, or has no trainings of so many steps.
        RunError: if it cannot be read.
    """
    table = read_table(find_table(text))
    if table.manifest.space_fingerprint != request.space.fingerprint:
        raise ConfigError(
            f"the table {table.name} is of the space {table.manifest.space} ({table.manifest.space_fingerprint}), and "
            f"the search is in {request.space.name} ({request.space.fingerprint}); "
            f"search the table's: --space {table.manifest.space}"
        )
    if not table.budgets or table.manifest.architectures < request.space.size:
        raise ConfigError(
            f"a search needs every architecture of its space with an accuracy, and the table {table.name} has "
            f"{table.manifest.architectures:,} of {request.space.size:,}, each with {len(table.budgets)} trainings; "
            f"build one that is whole"
        )
    steps = request.config.train_steps or table.budgets[0]
    return TableEvaluator(table, steps, request.config.seed)


def settings_of_table(text: str) -> dict[str, object]:
    """Return the space of a table and, for the target, the median of its latencies: what a search on it starts from.

    Raises what `open_table` does.
    """
    table = read_table(find_table(text))
    times_ms = [statistics.fmean(one.latency_ms for one in entry.tuned) for entry in table.entries]
    target_ms = float(f"{statistics.median(times_ms):.2g}")
    return {"space": table.manifest.space, "target_latency_ms": target_ms}


def _draw(seed: int, what: str, notation: str, count: int) -> int:
    digest = hashlib.sha256(f"{seed}:{what}:{notation}".encode()).digest()
    return digest[0] % count
