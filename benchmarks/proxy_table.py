"""How well accuracies after a short training order networks as a long training does.

    python benchmarks/proxy_table.py                                    # 24 networks, 2 seeds: about an hour
    python benchmarks/proxy_table.py --budgets 60,120,240,480 --results proxy.jsonl
    python benchmarks/proxy_table.py --networks 3 --budgets 2,4,6,8     # seconds, to try it

Each network is trained anew with each budget of steps, since the learning rate falls over the whole of it, and with
--factor times the longest, all with every seed. The long accuracy is the mean over the seeds; its own agreement
between seeds stands in the last row, and hardly any correlation can be expected to be higher. --results keeps what is
done, and a second run goes on with it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from candidates import draw

from tvm_mnas.config import SearchConfig
from tvm_mnas.evaluation.executors.local import LocalExecutor
from tvm_mnas.evaluation.executors.protocol import run_all
from tvm_mnas.evaluation.ranking import accuracy_noise, spearman
from tvm_mnas.evaluation.trainers import TrainTask, run_training
from tvm_mnas.space.files import load_space
from tvm_mnas.training.recipe import find_recipe

HEADER = [
    "| steps | seconds each | accuracy | spread | noise | Spearman with long | of both seeds' mean | between seeds |",
    "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
]


@dataclass(frozen=True, slots=True)
class Trained:
    """One training: its network's place in the list, its steps and seed, and what came of it."""

    network: int
    steps: int
    seed: int
    top1: float
    duration_s: float


def read_results(path: Path | None) -> list[Trained]:
    """Return what is in the file `path`, nothing where there is none."""
    if path is None or not path.is_file():
        return []
    return [Trained(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def train_all(
    notations: Sequence[str],
    lengths: Sequence[int],
    seeds: int,
    *,
    jobs: int,
    data: str,
    recipe: str,
    results: Path | None,
) -> list[Trained]:
    """Return every network trained for each of `lengths` with each seed, one network after the other."""
    done = read_results(results)
    known = {(one.network, one.steps, one.seed) for one in done}
    due = [
        (network, steps, seed)
        for network, steps, seed in itertools.product(
            range(len(notations)), sorted(lengths, reverse=True), range(seeds)
        )
        if (network, steps, seed) not in known
    ]
    tasks = [
        TrainTask(
            notation=notations[network],
            data=data,
            data_seed=0,
            seed=1000 * seed + network,
            recipe=find_recipe(recipe, {"steps": steps}),
        )
        for network, steps, seed in due
    ]
    with LocalExecutor(jobs=jobs) as executor:
        for index, outcome in run_all(executor, run_training, tasks):
            accuracy = outcome.get()
            found = Trained(*due[index], accuracy.top1, accuracy.duration_s)
            done.append(found)
            if results is not None:
                with results.open("a", encoding="utf-8") as file:
                    values = {name: getattr(found, name) for name in Trained.__slots__}
                    file.write(json.dumps(values) + "\n")
    return done


def table(trained: Sequence[Trained], *, long: int) -> str:
    """Return a markdown table with a row for each number of steps, the long training's last."""
    by_length: dict[int, dict[int, list[float]]] = {}
    for one in sorted(trained, key=lambda one: (one.steps, one.network, one.seed)):
        by_length.setdefault(one.steps, {}).setdefault(one.network, []).append(one.top1)
    truth = _means(by_length[long])
    lines = list(HEADER)
    for steps, accuracies in by_length.items():
        seeds = list(zip(*accuracies.values(), strict=True))
        seconds = [one.duration_s for one in trained if one.steps == steps]
        pairs = [(values[0], values[1]) for values in accuracies.values() if len(values) > 1]
        noise = accuracy_noise(seeds[0], pairs)
        with_truth = [_show(spearman(seed, truth)) for seed in seeds] if steps != long else ["-"]
        lines.append(
            f"| {steps} | {statistics.median(seconds):.1f} | {statistics.fmean(_means(accuracies)):.1%} "
            f"| {statistics.stdev(_means(accuracies)):.2%} | {'-' if noise is None else format(noise.noise, '.2%')} "
            f"| {', '.join(with_truth)} | {'-' if steps == long else _show(spearman(_means(accuracies), truth))} "
            f"| {_show(spearman(seeds[0], seeds[1])) if len(seeds) > 1 else '-'} |"
        )
    return "\n".join(lines)


def _means(accuracies: Mapping[int, Sequence[float]]) -> list[float]:
    return [statistics.fmean(values) for values in accuracies.values()]


def _show(correlation: float | None) -> str:
    return "-" if correlation is None else f"{correlation:.2f}"


def main() -> None:
    """Train what is not trained yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--space", default=SearchConfig().space)
    parser.add_argument("--networks", type=int, default=24)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--budgets", default="30,60,90,120", help="steps, with commas between")
    parser.add_argument(
        "--factor", type=int, default=10, help="the long training's, of the longest budget"
    )
    parser.add_argument("--recipe", default=SearchConfig().recipe)
    parser.add_argument("--data", default=SearchConfig().data)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--results", type=Path, help="a file that keeps each training")
    arguments = parser.parse_args()
    budgets = [int(text) for text in arguments.budgets.split(",")]
    long = arguments.factor * max(budgets)
    size = load_space(arguments.space).input_size
    networks = draw(arguments.space, candidates=arguments.networks, size=size, seed=0)
    trained = train_all(
        [network.notation for network in networks],
        [*budgets, long],
        arguments.seeds,
        jobs=arguments.jobs,
        data=arguments.data,
        recipe=arguments.recipe,
        results=arguments.results,
    )
    wanted = {*budgets, long}
    how = f"{arguments.seeds} seeds, {arguments.recipe} on {arguments.data}"
    print(f"{len(networks)} networks of {arguments.space}, {how}")
    print(table([one for one in trained if one.steps in wanted], long=long))


if __name__ == "__main__":
    main()
