"""What a search came to prefer: how often it proposed each choice, early and late, and how varied proposals were."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tvm_mnas.errors import SpaceError
from tvm_mnas.search.run import TrialRecord
from tvm_mnas.space.architecture import Architecture
from tvm_mnas.space.catalogue import Space
from tvm_mnas.space.detector import DetectorArchitecture, DetectorSpace
from tvm_mnas.space.network_space import ChosenNetwork
from tvm_mnas.space.space import Decision, SearchSpace

WINDOW = 16
"""The entropy of what is proposed is that of so many trials up to each."""
_LEAST_TRIALS = 16
"""Fewer trials show no preference."""

Proposal = tuple[int, tuple[int, ...]]
"""A trial's number, and its tokens: one index for each decision."""


@dataclass(frozen=True, slots=True)
class Share:
    """How often one choice was proposed, in percent: in the first quarter of the trials, and in the last."""

    choice: str
    early_percent: float
    late_percent: float


@dataclass(frozen=True, slots=True)
class Preference:
    """The choices of one decision, such as `conv_op` of `block3`, with how often each was proposed."""

    group: str
    name: str
    shares: tuple[Share, ...]


def proposals_of(records: Sequence[TrialRecord], space: Space) -> list[Proposal]:
    """Return what each trial proposed, in their order; none where they are of another space than `space`."""
    found: list[Proposal] = []
    for record in records:
        candidate = record.evaluation.architecture
        try:
            if isinstance(candidate, Architecture) and isinstance(space, SearchSpace):  # noqa: SIM114
                tokens = space.encode(candidate)
            elif isinstance(candidate, DetectorArchitecture) and isinstance(space, DetectorSpace):
                tokens = space.encode(candidate)
            elif isinstance(candidate, ChosenNetwork):
                chosen = dict(candidate.choices)
                tokens = tuple(d.choices.index(chosen[d.name]) for d in space.decisions)
            else:
                return []
        except (SpaceError, KeyError, ValueError):
            return []
        found.append((record.number, tokens))
    return found


def entropy_over_trials(
    proposals: Sequence[Proposal], decisions: Sequence[Decision]
) -> list[tuple[float, float]]:
    """Return the entropy of each window of `WINDOW` trials, with the number of its last one.

    It is the mean over the decisions, each as a part of the most that its choices allow: 1 is undecided, 0 is always
    the same. Choosing evenly shows somewhat less than 1, since a window is short.
    """
    most = [math.log(min(len(decision.choices), WINDOW)) for decision in decisions]
    series: list[tuple[float, float]] = []
    for end in range(WINDOW, len(proposals) + 1):
        window = proposals[end - WINDOW : end]
        parts = [
            _entropy([tokens[at] for _, tokens in window]) / most[at]
            for at in range(len(decisions))
        ]
        series.append((float(window[-1][0]), sum(parts) / len(parts)))
    return series


def preferences(
    proposals: Sequence[Proposal], decisions: Sequence[Decision]
) -> tuple[Preference, ...]:
    """Return for each decision how often each choice was proposed early and late; none after few trials."""
    if len(proposals) < _LEAST_TRIALS:
        return ()
    quarter = len(proposals) // 4
    early, late = proposals[:quarter], proposals[-quarter:]
    found: list[Preference] = []
    for at, decision in enumerate(decisions):
        group, _, name = decision.name.rpartition(".")
        counts = [Counter(tokens[at] for _, tokens in part) for part in (early, late)]
        shares = tuple(
            Share(str(choice), *(100.0 * count[token] / quarter for count in counts))
            for token, choice in enumerate(decision.choices)
        )
        found.append(Preference(group or name, name, shares))
    return tuple(found)


def _entropy(values: Sequence[int]) -> float:
    """Return the entropy of the values' shares, in nats."""
    total = len(values)
    return -sum(n / total * math.log(n / total) for n in Counter(values).values())
