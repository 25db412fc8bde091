"""Names the best candidate: the few with the highest reward are trained longer, and the reward decides again.

A short training ranks candidates roughly, so its winner is a finalist and no more (paper, "Experimental Setup":
a few top-performing models are transferred to the full task).
"""

from __future__ import annotations

from collections.abc import Sequence

from tvm_mnas.search.run import TrialRecord


def pick_finalists(records: Sequence[TrialRecord], count: int) -> list[TrialRecord]:
    """Return the `count` different candidates with the highest reward, best first; fewer if fewer succeeded."""
    first: dict[str, TrialRecord] = {}
    for record in records:
        if record.reward is not None:
            first.setdefault(record.evaluation.architecture.id, record)
    # Ties go to the earlier trial, so that the choice does not depend on the order of a sort.
    return sorted(first.values(), key=lambda record: (-_reward(record), record.number))[:count]


def _reward(record: TrialRecord) -> float:
    assert record.reward is not None
    return record.reward
