"""How well each search method does, on equal terms, on landscapes whose best candidate is known.

    python benchmarks/search_algorithms.py                                     # half an hour on two cores
    python benchmarks/search_algorithms.py --landscapes table:fashion-mini+noise --figure methods.png
    python benchmarks/search_algorithms.py --seeds 20 --results methods.jsonl  # goes on with what is there
    python benchmarks/search_algorithms.py --lags 0,1,2,3,4 --algorithms ppo,evolution   # what a lag costs

Every method is an Optuna sampler in a study of two objectives, asked in batches as `tvm-mnas search` asks. Seed s is
the sampler's and the landscape's. What a method found is judged by what is true, whatever it was told: the gap is how
far the best reward so far is from the best there is, the hypervolume is what all that it met dominates, of accuracy 1
at twice the target. A table has the median over the seeds and the quartiles, and marks a method where another one is
better by Wilcoxon's signed-rank test over the seeds (p < 0.05).

Ends with 1 if the default, PPO, is significantly worse than another method at any mark.
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
from pathlib import Path

from landscapes import open_landscape

from tvm_mnas.evaluation.ranking import signed_rank_p
from tvm_mnas.report.drawing import LIGHT, new_grid, plain_log, render_png, set_label, write_png
from tvm_mnas.search.pareto import Point, hypervolume

DEFAULT = "ppo"
LAGGING = ("ppo", "ppo-paper", "evolution")
MOST = {"tpe": 500}
"""Evaluations of a method at most: Optuna's TPE with two objectives takes many minutes for more."""
SIGNIFICANT = 0.05
COLOURS = ("#59636e", "#b08900", "#8a4fc4", "#2f9e6e", "#b4541a", "#1f5fc4")
POINTS = 40
"""Places of a curve, evenly on a logarithmic axis."""


@dataclass(frozen=True, slots=True)
class Task:
    """One search to make."""

    landscape: str
    algorithm: str
    lag: int
    seed: int
    batch: int
    hard: bool
    marks: tuple[int, ...]

    @property
    def name(self) -> str:
        """What the method is called."""
        return f"{self.algorithm}, lag {self.lag}" if self.lag else self.algorithm


@dataclass(frozen=True, slots=True)
class Run:
    """One search: gap and hypervolume (both shares) after each of the marks, and the gap at places between."""

    task: Task
    gaps: tuple[float, ...]
    volumes: tuple[float, ...]
    curve: tuple[tuple[int, float], ...]
    distinct: int
    duration_s: float

    def to_json(self) -> str:
        """Return one line, which `from_json` reads back."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Run:
        """Return the search of a line."""
        values = json.loads(line)
        task = values["task"]
        return cls(
            task=Task(**task | {"marks": tuple(task["marks"])}),
            gaps=tuple(values["gaps"]),
            volumes=tuple(values["volumes"]),
            curve=tuple((at, gap) for at, gap in values["curve"]),
            distinct=values["distinct"],
            duration_s=values["duration_s"],
        )


def search(task: Task) -> Run:
    """Search the task's landscape and return how it went.

    A sampler that lags passes over what it is told too early, so that batches may be asked one after the other here.
    """
    import optuna

    from tvm_mnas.search.algorithms.batches import distributions_of
    from tvm_mnas.search.algorithms.by_name import AlgorithmRequest, make_sampler, population_for

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    landscape = open_landscape(task.landscape, seed=task.seed, hard=task.hard)
    samples = task.marks[-1]
    request = AlgorithmRequest(
        decisions=landscape.decisions,
        reward=landscape.reward,
        seed=task.seed,
        batch_size=task.batch,
        lag=task.lag,
        population=population_for(samples),
    )
    study = optuna.create_study(
        directions=["maximize", "minimize"], sampler=make_sampler(task.algorithm, request)
    )
    distributions: dict[str, optuna.distributions.BaseDistribution] = {
        **distributions_of(landscape.decisions)
    }
    reach_ms = 2 * landscape.reward.target_latency_ms
    places = {round(samples ** (k / POINTS)) for k in range(POINTS + 1)}
    started = time.perf_counter()
    best = 0.0
    met: dict[tuple[int, ...], Point] = {}
    gaps, volumes, curve = [], [], []
    for first in range(0, samples, task.batch):
        trials = [study.ask(distributions) for _ in range(min(task.batch, samples - first))]
        for trial in trials:
            tokens = tuple(d.choices.index(trial.params[d.name]) for d in landscape.decisions)
            study.tell(trial, landscape.tell(tokens))
            met[tokens] = truth = landscape.truth(tokens)
            best = max(best, landscape.reward(*truth))
            done, gap = trial.number + 1, 1.0 - best / landscape.optimum
            if done in places:
                curve.append((done, gap))
            if done in task.marks:
                gaps.append(gap)
                area = hypervolume(list(met.values()), reference=Point(0.0, reach_ms))
                volumes.append(area / reach_ms)
    duration_s = time.perf_counter() - started
    return Run(task, tuple(gaps), tuple(volumes), tuple(curve), len(met), duration_s)


def table(runs: Sequence[Run]) -> str:
    """Return the runs on one landscape as a markdown table, one row per method, the best first."""
    marks = max((run.task.marks for run in runs), key=len)
    names = sorted({run.task.name for run in runs})
    of = {
        name: sorted((r for r in runs if r.task.name == name), key=lambda r: r.task.seed)
        for name in names
    }
    # Who ended early is placed by what it had then.
    names.sort(
        key=lambda name: [
            -len(of[name][0].gaps),
            statistics.median(r.gaps[-1] for r in of[name]),
            statistics.fmean(r.gaps[-1] for r in of[name]),
        ]
    )
    lines = [
        "| method | seeds | "
        + " | ".join(f"gap after {mark} (quartiles)" for mark in marks)
        + " | hypervolume at the end | distinct | s per run |",
        "| --- | ---: |" + " ---: |" * (len(marks) + 3),
    ]
    for name in names:
        mine = of[name]
        cells = [_cell(of, name, at) for at in range(len(marks))]
        volume = statistics.median(run.volumes[-1] for run in mine)
        lines.append(
            f"| {name} | {len(mine)} | "
            + " | ".join(cells)
            + f" | {volume:.2%} | {statistics.median(run.distinct for run in mine):.0f}"
            + f" | {statistics.median(run.duration_s for run in mine):.1f} |"
        )
    return "\n".join(lines)


def _cell(of: dict[str, list[Run]], name: str, at: int) -> str:
    if at >= len(of[name][0].gaps):
        return "-"
    gaps = [run.gaps[at] for run in of[name]]
    low, _, high = statistics.quantiles(gaps, n=4, method="inclusive")
    star = " *" if worse_than(of, name, at) else ""
    return f"{statistics.median(gaps):.2%} ({low:.2%} to {high:.2%}){star}"


def worse_than(of: dict[str, list[Run]], name: str, at: int) -> str | None:
    """Return the method that does significantly better than `name` at a mark, None where none does."""
    gaps = [run.gaps[at] for run in of[name]]
    for other, theirs in of.items():
        rivals = [run.gaps[at] for run in theirs if at < len(run.gaps)]
        if len(rivals) != len(gaps) or statistics.fmean(rivals) >= statistics.fmean(gaps):
            continue
        if signed_rank_p(gaps, rivals) < SIGNIFICANT:
            return other
    return None


def draw(runs: Sequence[Run], path: Path) -> None:
    """Write the median gap against evaluations, with its quartiles, to the PNG file `path`: one picture a landscape."""
    landscapes = list(dict.fromkeys(run.task.landscape for run in runs))
    seeds = len({run.task.seed for run in runs})
    figure, (line,) = new_grid(
        "How far the best so far is from the best there is",
        [f"Median of {seeds} seeds, and the quartiles; batches of {runs[0].task.batch}."],
        LIGHT,
        rows=1,
        columns=len(landscapes),
    )
    for axes, landscape in zip(line, landscapes, strict=True):
        mine = [run for run in runs if run.task.landscape == landscape]
        names = sorted({run.task.name for run in mine}, key=lambda name: (name == DEFAULT, name))
        # The default last, so that nothing lies over it.
        for colour, name in zip(COLOURS[-len(names) :], names, strict=False):
            curves = [dict(run.curve) for run in mine if run.task.name == name]
            places = sorted(curves[0])
            middle, low, high = [], [], []
            for place in places:
                gaps = [100 * curve[place] for curve in curves]
                first, second, third = (
                    statistics.quantiles(gaps, n=4, method="inclusive")
                    if len(gaps) > 1
                    else [gaps[0]] * 3
                )
                low.append(first)
                middle.append(second)
                high.append(third)
            axes.plot(places, middle, color=colour, lw=1.8, label=name)
            axes.fill_between(places, low, high, color=colour, alpha=0.15, lw=0)
        axes.set_xscale("log")
        plain_log(axes.xaxis)
        axes.set_ylim(bottom=0)
        axes.set_title(landscape, fontsize=10, color=LIGHT.ink, parse_math=False)
        set_label(axes.xaxis, "evaluations", LIGHT)
        set_label(axes.yaxis, "gap to the best reward (%)", LIGHT)
        axes.legend(fontsize=8, frameon=False, labelcolor=LIGHT.ink)
    write_png(path, render_png(figure))


def run_all(tasks: Sequence[Task], *, jobs: int, results: Path | None) -> list[Run]:
    """Return the run of each task; those in the file `results` are not made again, new ones are appended to it."""
    found: dict[Task, Run] = {}
    if results is not None and results.is_file():
        for line in results.read_text(encoding="utf-8").splitlines():
            run = Run.from_json(line)
            found[run.task] = run
    due = [task for task in tasks if task not in found]
    # One thread each: the runs share the cores among themselves.
    os.environ["OMP_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(max_workers=jobs) as pool:
        for run in pool.map(search, due):
            found[run.task] = run
            if results is not None:
                with results.open("a", encoding="utf-8") as file:
                    file.write(run.to_json() + "\n")
    return [found[task] for task in tasks]


def main() -> int:
    """Run the benchmark and print its tables; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--landscapes", default="mnasnet,mnasnet+0.02")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--marks", default="100,500,2000", help="evaluations after which to look")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--reward", choices=("soft", "hard"), default="soft")
    parser.add_argument("--algorithms", default="ppo,ppo-paper,evolution,nsga2,tpe,random")
    parser.add_argument("--lags", default="0", help="of the methods that have one")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--results", type=Path, help="a file that keeps each search")
    parser.add_argument("--figure", type=Path, help="a PNG file with the curves")
    arguments = parser.parse_args()
    marks = tuple(int(mark) for mark in arguments.marks.split(","))
    tasks = [
        Task(
            landscape,
            name,
            lag,
            seed,
            arguments.batch,
            arguments.reward == "hard",
            tuple(mark for mark in marks if mark <= MOST.get(name, mark)) or marks[:1],
        )
        for landscape in arguments.landscapes.split(",")
        # The slowest first, so that no core waits at the end.
        for name in sorted(arguments.algorithms.split(","), key=lambda one: one != "tpe")
        for lag in (map(int, arguments.lags.split(",")) if name in LAGGING else (0,))
        for seed in range(arguments.seeds)
    ]
    runs = run_all(tasks, jobs=arguments.jobs, results=arguments.results)
    fails = []
    for landscape in arguments.landscapes.split(","):
        mine = [run for run in runs if run.task.landscape == landscape]
        print(
            f"\n{landscape}, {arguments.reward} reward, batches of {arguments.batch}; * : another method is better, "
            f"p < {SIGNIFICANT}\n"
        )
        print(table(mine))
        of: dict[str, list[Run]] = {}
        for run in mine:
            of.setdefault(run.task.name, []).append(run)
        for at, mark in enumerate(marks):
            better = worse_than(of, DEFAULT, at) if DEFAULT in of else None
            if better is not None:
                fails.append(f"{better} is better than {DEFAULT} after {mark} on {landscape}")
    if arguments.figure is not None:
        draw(runs, arguments.figure)
    print(
        f"\n{'; '.join(fails) or f'No method is significantly better than {DEFAULT} at any mark.'}"
    )
    return 1 if fails else 0


if __name__ == "__main__":
    sys.exit(main())
