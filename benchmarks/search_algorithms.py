"""How near each search algorithm comes to a known optimum over the paper's space.

    python benchmarks/search_algorithms.py                      # the README's table, a few minutes
    python benchmarks/search_algorithms.py --algorithms ppo,random --samples 500 --json
    python benchmarks/search_algorithms.py --algorithms ppo,evolution --lags 0,1,2,3,4    # what a lag costs

Every algorithm is an Optuna sampler in a study whose one objective is the reward (soft constraint,
80 ms), asked in batches as `tvm-mnas search` asks. Seed s is both the sampler's seed and the
landscape's, so each of the seeds is another task; the optimum of each is computed exactly
(`tvm_mnas/testing.py`). Nothing is measured here but the search: accuracy and latency are formulas.
Ends with 1 if PPO does not beat random search or is further than 2% from the optimum.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import repeat

TARGET_LATENCY_MS = 80.0
GOAL = 0.02
LAGGING = ("ppo", "evolution")


@dataclass(frozen=True, slots=True)
class Run:
    """One search: how far its best was from the optimum after 5%, 25% and all samples."""

    algorithm: str
    seed: int
    samples: int
    gaps: tuple[float, float, float]
    best_reward: float
    optimum: float
    distinct: int
    duration_s: float


def search(
    algorithm: str,
    seed: int,
    *,
    space: str,
    hard: bool,
    samples: int,
    batch: int,
    noise: float,
    lag: int = 0,
) -> Run:
    """Search the landscape of `seed` with `algorithm` and return how it went.

    A sampler that lags passes over what it is told too early, so that batches may be asked one after the other here.
    """
    import optuna

    from tvm_mnas.search.algorithms.batches import distributions_of
    from tvm_mnas.search.algorithms.by_name import AlgorithmRequest, make_sampler
    from tvm_mnas.search.reward import Reward
    from tvm_mnas.space.files import load_space
    from tvm_mnas.testing import SyntheticEvaluator

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    decisions = load_space(space).decisions
    # What the sampler is told has the noise of a short training; what it is judged by has not.
    noisy = SyntheticEvaluator(decisions, seed=seed, accuracy_noise=noise)
    exact = SyntheticEvaluator(decisions, seed=seed)
    reward = (Reward.hard if hard else Reward.soft)(TARGET_LATENCY_MS)
    optimum = exact.optimum(reward).reward
    sampler = make_sampler(
        algorithm,
        AlgorithmRequest(decisions=decisions, reward=None, seed=seed, batch_size=batch, lag=lag),
    )
    study = optuna.create_study(direction="maximize", sampler=sampler)
    distributions: dict[str, optuna.distributions.BaseDistribution] = {
        **distributions_of(decisions)
    }

    started = time.perf_counter()
    best: list[float] = []
    met: set[tuple[int, ...]] = set()
    for first in range(0, samples, batch):
        trials = [study.ask(distributions) for _ in range(min(batch, samples - first))]
        for trial in trials:
            tokens = tuple(d.choices.index(trial.params[d.name]) for d in decisions)
            told, truth = noisy.evaluate(tokens), exact.evaluate(tokens)
            study.tell(trial, reward(told.accuracy, told.latency_ms))
            true_reward = reward(truth.accuracy, truth.latency_ms)
            best.append(max(true_reward, best[-1]) if best else true_reward)
            met.add(tokens)
    marks = [max(1, samples // 20), max(1, samples // 4), samples]
    early, middle, end = (1.0 - best[mark - 1] / optimum for mark in marks)
    return Run(
        algorithm=f"{algorithm}, lag {lag}" if lag else algorithm,
        seed=seed,
        samples=samples,
        gaps=(early, middle, end),
        best_reward=best[-1],
        optimum=optimum,
        distinct=len(met),
        duration_s=time.perf_counter() - started,
    )


def table(runs: Sequence[Run]) -> str:
    """Return the runs as a markdown table, one row per algorithm, the best first."""
    samples = runs[0].samples
    marks = [max(1, samples // 20), max(1, samples // 4), samples]
    lines = [
        "| algorithm | seeds | "
        + " | ".join(f"gap after {mark}" for mark in marks)
        + " | worst seed | distinct | s per run |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    algorithms = sorted({run.algorithm for run in runs}, key=lambda name: median_gap(runs, name))
    for algorithm in algorithms:
        mine = [run for run in runs if run.algorithm == algorithm]
        gaps = [statistics.median(run.gaps[at] for run in mine) for at in range(3)]
        lines.append(
            f"| {algorithm} | {len(mine)} | "
            + " | ".join(f"{gap:.2%}" for gap in gaps)
            + f" | {max(run.gaps[2] for run in mine):.2%}"
            + f" | {statistics.median(run.distinct for run in mine):.0f}"
            + f" | {statistics.median(run.duration_s for run in mine):.1f} |"
        )
    return "\n".join(lines)


def median_gap(runs: Sequence[Run], algorithm: str) -> float:
    """Return the median distance of the best from the optimum, as a share of the optimum."""
    return statistics.median(run.gaps[2] for run in runs if run.algorithm == algorithm)


def main() -> int:
    """Run the benchmark and print its table; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--space", default="mnasnet")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--noise", type=float, default=0.0, help="std deviation of the accuracy")
    parser.add_argument("--reward", choices=("soft", "hard"), default="soft")
    parser.add_argument("--algorithms", default="ppo,evolution,nsga2,tpe,random")
    parser.add_argument(
        "--lags", default="0", help="of the algorithms that have one: ppo, evolution"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", action="store_true", help="print the runs as JSON")
    arguments = parser.parse_args()
    algorithms = arguments.algorithms.split(",")
    tasks = [
        (algorithm, lag, seed)
        # The slowest first, so that no core waits at the end.
        for algorithm in sorted(algorithms, key=lambda name: name not in ("tpe", "ppo"))
        for lag in (map(int, arguments.lags.split(",")) if algorithm in LAGGING else (0,))
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    ]
    # One thread each: the runs share the cores among themselves.
    os.environ["OMP_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(max_workers=arguments.jobs) as pool:
        runs = list(pool.map(_search, tasks, repeat(arguments)))
    if arguments.json:
        print(json.dumps([asdict(run) for run in runs], indent=2))
    else:
        print(
            f"Space {arguments.space}, {arguments.reward} reward, {arguments.samples} samples, "
            f"batches of {arguments.batch}, accuracy noise {arguments.noise:g}; "
            "gap: how far the best so far is from the exact optimum, median over the seeds.\n"
        )
        print(table(runs))
    if not {"ppo", "random"} <= set(algorithms):
        return 0
    ppo, uniform = median_gap(runs, "ppo"), median_gap(runs, "random")
    holds = ppo < uniform and ppo <= GOAL
    print(
        f"\nPPO's median is {ppo:.2%} from the optimum, random search's {uniform:.2%}; the goal, "
        f"better than random and within {GOAL:.0%}, is {'met' if holds else 'NOT met'}.",
        file=sys.stderr if arguments.json else sys.stdout,
    )
    return 0 if holds else 1


def _search(task: tuple[str, int, int], arguments: argparse.Namespace) -> Run:
    algorithm, lag, seed = task
    return search(
        algorithm,
        seed,
        space=arguments.space,
        hard=arguments.reward == "hard",
        samples=arguments.samples,
        batch=arguments.batch,
        noise=arguments.noise,
        lag=lag,
    )


if __name__ == "__main__":
    sys.exit(main())
