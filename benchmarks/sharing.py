"""What it would cost to give a convolution the schedule of its twin: the same sums, with something else at the end.

    python benchmarks/candidates.py --records records      # hours; any store of tuning records will do
    python benchmarks/sharing.py records/local-6360c02e

An addition or activation after a convolution is part of its kernel, so that a shape has several kernels and each its
own records. Their first schedules are the same tiles in the same order (`compiler/tiles.py`), measured for each. So
the records tell what a kernel takes with the tile that is best for its twin, by the best of the tiles that both have:
1 where both agree. Nothing is measured anew.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import sys
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any


def losses(twins: Mapping[Hashable, Sequence[Sequence[float]]]) -> list[float]:
    """Return for each ordered pair of twins what the second takes with the first one's best tile, by its own best.

    `twins` has for each shape the seconds of each of its kernels, tile by tile. Pairs with fewer than two tiles in
    common have no choice and are left out.
    """
    found = []
    for kernels in twins.values():
        for first, second in itertools.permutations(kernels, 2):
            common = min(len(first), len(second))
            if common >= 2:
                best = min(range(common), key=first.__getitem__)
                found.append(second[best] / min(second[:common]))
    return sorted(found)


def read_twins(directory: Path) -> tuple[int, dict[Hashable, list[list[float]]]]:
    """Return how many kernels the store in `directory` has, and each convolution's seconds a tile, by its shape.

    Raises:
        RecordsError: if there is no store, or it cannot be read.
    """
    from tvm_mnas.compiler.core.metaschedule import load_meta_schedule
    from tvm_mnas.compiler.records.store import RecordStore
    from tvm_mnas.compiler.schedules.convolution import conv_shape
    from tvm_mnas.compiler.tuning.worker_main import TILES

    load = load_meta_schedule().database.Workload.from_json
    store = RecordStore.read(directory)
    twins: dict[Hashable, list[list[float]]] = defaultdict(list)
    for key in sorted(store.keys()):
        workload, _ = store.contents_of(key)
        shape = conv_shape(load(json.loads(workload)).mod)
        if shape is not None:
            records: list[Any] = [json.loads(line) for line in store.records_of(key)[:TILES]]
            twins[shape].append([statistics.fmean(record[1]) for record in records])
    return len(store.keys()), dict(twins)


def main() -> int:
    """Print what sharing would save and cost; return the exit code."""
    from tvm_mnas.errors import TvmMnasError

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("store", type=Path, nargs="?", help="a directory with a manifest.json")
    arguments = parser.parse_args()
    if arguments.store is None:
        print("no store given; `tvm-mnas records list` shows those there are")
        return 0
    try:
        kernels, twins = read_twins(arguments.store)
    except TvmMnasError as error:
        print(error, file=sys.stderr)
        return 1
    convolutions = sum(map(len, twins.values()))
    print(f"{kernels} kernels, of them {convolutions} convolutions of {len(twins)} shapes")
    found = losses(twins)
    if found:
        mean = math.exp(statistics.fmean(map(math.log, found)))
        print(
            f"with a twin's best tile, {len(found)} pairs: {mean:.3f} times as long in the geometric mean, "
            f"{statistics.median(found):.3f} in the median, {found[-1]:.3f} at worst"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
