"""What a search may be told in place of a measured latency, how it orders networks, and what it misjudges.

    mult-adds     counted, which the paper says "is not an accurate approximation of actual latency" (section 1)
    parameters    counted
    untuned       measured, of the network as TVM builds it by itself
    forecast      a formula of its kernels' records, fitted on a few measured networks (`evaluation/predictor.py`)
    tuned         measured, compiled from records: what this project searches by

Each but the last is multiplied so that its mean is that of the tuned latencies: a stand-in is given the right scale,
and what is left is order and proportion.
"""

from __future__ import annotations

import math
import random
import statistics
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tvm_mnas.errors import ConfigError
from tvm_mnas.evaluation.predictor import MeasuredNetwork, fit_predictor
from tvm_mnas.evaluation.ranking import spearman
from tvm_mnas.evaluation.tables.table import PASSES, EvaluationTable, TableEntry
from tvm_mnas.space.architecture import Architecture, SkipOp
from tvm_mnas.space.candidate import parse_candidate

STAND_INS = ("mult-adds", "parameters", "untuned", "forecast", "tuned")
"""In place of a latency; the last is the latency."""
FITTED = 16
"""Networks that a forecast is fitted on."""
_REFERENCE = {"conv_op": "sepconv", "kernel_size": "3", "skip_op": "none", "se_ratio": "0"}
"""What each choice of an operation is compared with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How a stand-in orders the networks of a table, beside their tuned latencies, the mean of all passes.

    `spearman` is the rank correlation, `error_percent` the mean of how far it is off, as a part of the latency.
    """

    name: str
    spearman: float
    error_percent: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What it does to a network's time to change one block, such as from a 3x3 to a 5x5 kernel, all else equal.

    `percent` is by which part the latency grows by the stand-in called `name`, `error_percent` its standard error;
    both from a least-squares fit of the logarithm over the networks of a table, pooled over blocks.
    """

    name: str
    change: str
    percent: float
    error_percent: float


def stand_ins_ms(table: EvaluationTable, *, seed: int) -> dict[str, dict[str, float]]:
    """Return for each of `STAND_INS` what it says of each network of `table`, by notation, in ms.

    Of a measured one that is a single pass, which `seed` draws; so are the `FITTED` networks that a forecast is fitted
    on.

    Raises:
        ConfigError: if the table has too few networks to fit a forecast.
    """
    rng = random.Random(f"stand-ins/{seed}")
    entries = table.entries
    if len(entries) < FITTED:
        raise ConfigError(
            f"a forecast is fitted on {FITTED} networks, and the table {table.name} has {len(entries)}; "
            f"take a larger one"
        )
    turns = {entry.notation: rng.randrange(PASSES) for entry in entries}
    tuned = {e.notation: table.speed.corrected_ms(e.tuned[turns[e.notation]]) for e in entries}
    known = rng.sample(list(entries), FITTED)
    predictor = fit_predictor([_measured(table, e, tuned[e.notation]) for e in known])
    raw = {
        "mult-adds": {e.notation: float(e.mult_adds) for e in entries},
        "parameters": {e.notation: float(e.parameters) for e in entries},
        "untuned": {
            e.notation: table.speed.corrected_ms(e.untuned[turns[e.notation]]) for e in entries
        },
        "forecast": {
            e.notation: predictor.predict_ms(
                table.kernels_us(e), sum(e.calls.values()), table.moved_bytes(e)
            )
            for e in entries
        },
        "tuned": tuned,
    }
    mean = statistics.fmean(tuned.values())
    return {name: _scaled(values, mean, name) for name, values in raw.items()}


def agreements(table: EvaluationTable, *, seed: int) -> tuple[Agreement, ...]:
    """Return how each stand-in agrees with the tuned latencies of `table`, in the order of `STAND_INS`."""
    truth = {entry.notation: table.entry_ms(entry) for entry in table.entries}
    found = []
    for name, values in stand_ins_ms(table, seed=seed).items():
        errors = [abs(values[one] / true - 1.0) for one, true in truth.items()]
        found.append(
            Agreement(
                name=name,
                spearman=spearman([values[one] for one in truth], list(truth.values())) or 0.0,
                error_percent=100.0 * statistics.fmean(errors),
            )
        )
    return tuple(found)


def operation_effects(table: EvaluationTable, *, seed: int) -> tuple[Effect, ...]:
    """Return what each change of a block's operation costs, by each stand-in: where a 5x5 or a skip is misjudged.

    The fit is of the logarithm, on how many blocks have each operation, kernel size and skip, and on each block's
    filters and layers; what a block is compared with is the first of `_REFERENCE`.
    """
    architectures = [parse_candidate(entry.notation) for entry in table.entries]
    rows = [_features(one) for one in architectures if isinstance(one, Architecture)]
    names = sorted({name for row in rows for name in row})
    matrix = np.array([[1.0, *(row.get(name, 0.0) for name in names)] for row in rows])
    # What never varies beside another tells nothing of its own.
    kept = [0, *(k for k in range(1, matrix.shape[1]) if np.ptp(matrix[:, k]) > 0)]
    inverse = np.linalg.pinv(matrix[:, kept].T @ matrix[:, kept])
    effects: list[Effect] = []
    for name, values in stand_ins_ms(table, seed=seed).items():
        logs = np.log([values[entry.notation] for entry in table.entries])
        weights = inverse @ matrix[:, kept].T @ logs
        rest = logs - matrix[:, kept] @ weights
        free = max(1, len(logs) - len(kept))
        errors = np.sqrt(np.diag(inverse) * float(rest @ rest) / free)
        for place, column in enumerate(kept):
            label = names[column - 1] if column else ""
            if "->" not in label:
                continue
            growth = math.exp(float(weights[place]))
            effects.append(
                Effect(
                    name=name,
                    change=label,
                    percent=100.0 * (growth - 1.0),
                    error_percent=100.0 * growth * float(errors[place]),
                )
            )
    return tuple(effects)


def _features(architecture: Architecture) -> Mapping[str, float]:
    """Return how many blocks have each operation that differs from the reference, and each block's size."""
    found: Counter[str] = Counter()
    sizes: dict[str, float] = {}
    for number, block in enumerate(architecture.blocks):
        operation = block.conv_op.value
        if block.expansion > 1:
            operation += str(block.expansion)
        choices = {
            "conv_op": operation,
            "kernel_size": str(block.kernel_size),
            "skip_op": block.skip_op.value if block.skip_op is not SkipOp.NONE else "none",
            "se_ratio": f"{block.se_ratio:g}",
        }
        for name, choice in choices.items():
            if choice != _REFERENCE[name]:
                found[f"{name} {_REFERENCE[name]} -> {choice}"] += 1
        sizes[f"block {number} filters"] = math.log(block.filters)
        sizes[f"block {number} layers"] = math.log(block.layers)
    return {**found, **sizes}


def _measured(table: EvaluationTable, entry: TableEntry, latency_ms: float) -> MeasuredNetwork:
    return MeasuredNetwork(
        table.kernels_us(entry), sum(entry.calls.values()), table.moved_bytes(entry), latency_ms
    )


def _scaled(values: Mapping[str, float], mean: float, name: str) -> dict[str, float]:
    factor = 1.0 if name == "tuned" else mean / statistics.fmean(values.values())
    return {notation: factor * value for notation, value in values.items()}
