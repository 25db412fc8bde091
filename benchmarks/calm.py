"""Latencies of many networks to compare, on a machine that others use too. No script of its own.

What else runs there adds time for seconds or minutes and never takes any away. So the networks are timed in rounds,
each of which takes all of them in another order, and the latency of one is the lower quartile over the rounds. One
timing is short: many of them over minutes tell more of such a machine than few long ones.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from tvm_mnas.devices.farm.farm import Farm

REPEAT = 5
"""Samples of one timing."""

Key = TypeVar("Key")


def lower_quartile(values: Sequence[float]) -> float:
    """Return the value that a quarter of `values` lie below."""
    return float(np.percentile(values, 25))


def time_in_rounds(
    networks: Mapping[Key, tuple[Path, Sequence[int]]],
    farm: Farm,
    *,
    rounds: int,
    seed: int,
    say: Callable[[str], None],
) -> dict[Key, float]:
    """Return the latency (ms) of each of `networks` (compiled, shape of the input), without those that never ran.

    The orders are drawn from `seed`; `say` is told of each round that is over.
    """
    from tvm_mnas.devices.farm.timing import measure
    from tvm_mnas.errors import CandidateError, DeviceError

    timing = replace(farm.profile.timing, repeat=REPEAT, attempts=1)
    samples_ms: dict[Key, list[float]] = {key: [] for key in networks}
    generator = random.Random(seed)
    for finished in range(rounds):
        for key in generator.sample(list(networks), len(networks)):
            path, shape = networks[key]
            # A device that was lost for one network may be back for the next; the rest is worth keeping.
            with contextlib.suppress(CandidateError, DeviceError):
                samples_ms[key].append(measure(path, shape, farm, timing=timing).latency_ms)
        say(f"timed, round {finished + 1} of {rounds}")
    return {key: lower_quartile(samples) for key, samples in samples_ms.items() if samples}
