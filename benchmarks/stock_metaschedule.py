"""Our tuning against MetaSchedule as TVM ships it: six kernels of MnasNet-B1, as many schedules each.

    python benchmarks/stock_metaschedule.py                                 # 6 kernels, 32 schedules, 3 seeds: hours
    python benchmarks/stock_metaschedule.py --kernels pointwise-28,pointwise-56 --seeds 1 --trials 16

Stock is `tvm.s_tir.meta_schedule.tune_tasks` in a process of its own, imported the stock way: evolutionary search,
XGBoost, `LocalBuilder` with two workers and `LocalRunner`. Nothing is changed but their time limits: with the
default of 30 s, which a builder's imports alone take here, every build fails. Both begin without records. What either
counts as its best is not compared: the best schedule of each is built again, and all are timed in turn on the
same core. A trial is a schedule that was asked for, those that failed included. A rate counts the start of either's
processes. Stock tunes in rounds of 64, its default: with fewer schedules there is one round, and nothing for its
cost model to learn from; `--trials 128` shows what it does with two.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from networks import settled_network

if TYPE_CHECKING:
    from tvm_mnas.compiler.core.kernel import Kernel
    from tvm_mnas.evaluation.toolchain import Toolchain

KERNELS = {
    "stem-and-separable": r" 1x3x224x224 3x3x3x\d+ 3x3x1x",
    "inverted-112": r" 1x112x112x16 1x1x16x\d+ 3x3x1x",
    "depthwise-5x5-stride-2": r" 1x56x56x\d+ 5x5x1x",
    "pointwise-56": r"_relu 1x56x56x\d+ 1x1x",
    "pointwise-28": r"_relu 1x28x28x\d+ 1x1x",
    "pointwise-14": r"_add_add 1x14x14x480 1x1x",
}
"""What of MnasNet-B1 is tuned, each a pattern of the kernel's name; the costliest that fits is taken."""

_STOCK_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class Library:
    """A schedule built: where it lies, and type and shape of its arguments. Each packs its weights in its own way."""

    path: Path
    arguments: Sequence[tuple[str, Sequence[int]]]


@dataclass(frozen=True, slots=True)
class Side:
    """What one tuner did with one seed: schedules measured, seconds, and its best of each kernel, built again.

    `start_s` is how many of the seconds passed before the first kernel's turn; 0 where that was not noted.
    """

    trials: int
    duration_s: float
    libraries: Mapping[str, Library]
    start_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Comparison:
    """One seed: both sides, and each kernel's times in microseconds, timed in turn (label -> stock, ours)."""

    seed: int
    stock: Side
    ours: Side
    times_us: Mapping[str, tuple[float, float]]


def pick_kernels(kernels: Sequence[Kernel], labels: Sequence[str]) -> dict[str, Kernel]:
    """Return the kernel of each label.

    Raises:
        SystemExit: if a label fits none: the network is lowered in another way than this script knows.
    """
    picked = {}
    for label in labels:
        fitting = [kernel for kernel in kernels if re.search(KERNELS[label], kernel.name)]
        if not fitting:
            raise SystemExit(f"no kernel fits {label}: {', '.join(k.name for k in kernels)}")
        picked[label] = max(fitting, key=lambda kernel: kernel.flops)
    return picked


def build_best(record: Any, target: str, path: Path) -> Library:
    """Build the schedule of a MetaSchedule tuning record into the shared library `path`."""
    import tvm
    from tvm.s_tir.meta_schedule.arg_info import ArgInfo
    from tvm.s_tir.transform import RemoveWeightLayoutRewriteBlock

    from tvm_mnas.compiler.core.linking import find_linker
    from tvm_mnas.compiler.core.marks import as_marked

    module = record.as_measure_candidate().sch.mod
    infos = ArgInfo.from_entry_func(module, remove_preproc=True)
    described = [info.as_json() for info in infos]
    module = RemoveWeightLayoutRewriteBlock(skip_tensor_rewrite=True)(module)
    library = tvm.compile(as_marked(module), target=tvm.target.Target(json.loads(target)))
    library.mod.write_to_file(str(path.with_suffix(".o")))
    find_linker(target).link([path.with_suffix(".o")], path)
    return Library(
        path, [(str(dtype), [int(extent) for extent in shape]) for _, dtype, shape in described]
    )


def tune_stock(directory: Path) -> int:
    """Tune what `directory`/request.json says; leave the libraries and result.json there. Runs in its own process."""
    from tvm.s_tir import meta_schedule
    from tvm.target import Target

    request = json.loads((directory / "request.json").read_text())
    target = Target(json.loads(request["target"]))
    load = meta_schedule.database.Workload.from_json
    modules = {label: load(json.loads(text)).mod for label, text in request["workloads"].items()}
    tasks = [
        meta_schedule.TuneContext(
            module,
            target=target,
            space_generator="post-order-apply",
            search_strategy="evolutionary",
            task_name=label,
            rand_state=request["seed"] + 1,
        )
        for label, module in modules.items()
    ]
    began = time.time()
    database = meta_schedule.tune_tasks(
        tasks=tasks,
        task_weights=[1.0] * len(tasks),
        work_dir=str(directory),
        max_trials_global=request["trials"] * len(tasks),
        max_trials_per_task=request["trials"],
        num_trials_per_iter=min(64, request["trials"]),
        builder=meta_schedule.builder.LocalBuilder(timeout_sec=_STOCK_TIMEOUT_S, max_workers=2),
        runner=meta_schedule.runner.LocalRunner(timeout_sec=_STOCK_TIMEOUT_S),
        cost_model="xgb",
    )
    ended = time.time()
    libraries = {}
    for label, module in modules.items():
        found = database.get_top_k(database.commit_workload(module), 1)
        if found:
            path = directory / f"stock-{label}.so"
            library = build_best(found[0], request["target"], path)
            libraries[label] = [str(path), library.arguments]
    lines = (directory / "database_tuning_record.json").read_text().splitlines()
    result = {"began": began, "ended": ended, "trials": len(lines), "libraries": libraries}
    (directory / "result.json").write_text(json.dumps(result))
    return 0


def run_stock(
    kernels: Mapping[str, Kernel], target: str, directory: Path, *, trials: int, seed: int
) -> Side:
    """Return what stock MetaSchedule does, from the start of its process to the end of its tuning."""
    directory.mkdir()
    workloads = {label: kernel.workload for label, kernel in kernels.items()}
    request = {"target": target, "workloads": workloads, "trials": trials, "seed": seed}
    (directory / "request.json").write_text(json.dumps(request))
    started = time.time()
    with (directory / "log.txt").open("w") as log:
        done = subprocess.run(
            [sys.executable, __file__, "--stock", str(directory)],
            stdout=log,
            stderr=log,
            check=False,
            env={**os.environ, "TVM_NUM_THREADS": "1"},
        )
    if done.returncode:
        tail = (directory / "log.txt").read_text().strip().splitlines()[-1:]
        raise SystemExit(f"stock MetaSchedule ended with {done.returncode}: {' '.join(tail)}")
    result = json.loads((directory / "result.json").read_text())
    libraries = {
        label: Library(Path(path), arguments)
        for label, (path, arguments) in result["libraries"].items()
    }
    return Side(
        result["trials"], result["ended"] - started, libraries, start_s=result["began"] - started
    )


def run_ours(
    kernels: Mapping[str, Kernel], directory: Path, *, trials: int, seed: int
) -> tuple[Side, dict[str, str]]:
    """Return what our tuning does, from the start of its workers to its end; and its failures by label."""
    from tvm_mnas.compiler.core.kernel import LoweredNetwork
    from tvm_mnas.compiler.core.metaschedule import load_meta_schedule
    from tvm_mnas.devices.core.profile import load_profile
    from tvm_mnas.evaluation.toolchain import ToolchainOptions, open_toolchain

    directory.mkdir()
    profile = load_profile("local")
    started = time.time()
    with open_toolchain(
        profile,
        ToolchainOptions(
            records=directory / "records",
            schedules_per_kernel=trials,
            seed=seed,
            with_shipped=False,
        ),
        logs=directory,
        scratch=directory,
    ) as toolchain:
        network = LoweredNetwork((1, 3, 224, 224), profile.target, tuple(kernels.values()), None)
        report = toolchain.tune(
            [network], on_progress=lambda done, total: None, by_importance=False
        )
        duration_s = time.time() - started
        database = load_meta_schedule().database
        libraries: dict[str, Library] = {}
        for label, kernel in kernels.items():
            best = toolchain.store.best_record(kernel.key)
            if best is None:
                continue
            module = database.Workload.from_json(json.loads(kernel.workload)).mod
            workload = database.MemoryDatabase().commit_workload(module)
            record = database.TuningRecord.from_json(json.loads(best), workload)
            path = directory / f"ours-{label}.so"
            libraries[label] = build_best(record, profile.target, path)
    failures = {kernel.name: str(kernel.failures) for kernel in report.kernels if kernel.failures}
    return Side(sum(k.schedules for k in report.kernels), duration_s, libraries), failures


def time_in_turn(
    toolchain: Toolchain, libraries: Sequence[Library], *, rounds: int, seed: int
) -> tuple[float, ...]:
    """Return the median time of each library in microseconds, each timed once in every round."""
    from tvm_mnas.devices.core.profile import TimingSettings
    from tvm_mnas.devices.farm.runner import measure_kernel

    timing = TimingSettings(repeat=3, min_repeat_ms=20, warmup=0, attempts=1)
    samples: list[list[float]] = [[] for _ in libraries]
    generator = random.Random(seed)
    for _ in range(rounds):
        for at in generator.sample(range(len(libraries)), len(libraries)):
            outcome = measure_kernel(
                toolchain.farm,
                libraries[at].path,
                libraries[at].arguments,
                timing=timing,
                deadline_s=30.0,
                lease_deadline_s=60.0,
            )
            if isinstance(outcome, str):
                raise SystemExit(f"{libraries[at].path.name} did not run again: {outcome}")
            samples[at].append(statistics.median(outcome))
    return tuple(statistics.median(values) * 1e6 for values in samples)


def geometric_mean(values: Sequence[float]) -> float:
    """Return the geometric mean of positive numbers."""
    return math.exp(statistics.fmean(math.log(value) for value in values))


def table(comparisons: Sequence[Comparison]) -> str:
    """Return a markdown table: a row per seed, then a row per kernel with medians over the seeds."""
    lines = [
        "| seed | stock trials/s | our trials/s | x stock | stock mean us | our mean us | stock / ours |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for one in comparisons:
        stock_s, ours_s = (side.trials / side.duration_s for side in (one.stock, one.ours))
        stock_us = geometric_mean([stock for stock, _ in one.times_us.values()])
        ours_us = geometric_mean([ours for _, ours in one.times_us.values()])
        lines.append(
            f"| {one.seed} | {stock_s:.2f} | {ours_s:.2f} | {ours_s / stock_s:.1f} | "
            f"{stock_us:.1f} | {ours_us:.1f} | {stock_us / ours_us:.2f} |"
        )
    lines += ["", "| kernel | stock us | ours us | stock / ours |", "| --- | ---: | ---: | ---: |"]
    for label in comparisons[0].times_us:
        pairs = [one.times_us[label] for one in comparisons if label in one.times_us]
        stock_us = statistics.median(stock for stock, _ in pairs)
        ours_us = statistics.median(ours for _, ours in pairs)
        ratio = statistics.median(stock / ours for stock, ours in pairs)
        lines.append(f"| {label} | {stock_us:.1f} | {ours_us:.1f} | {ratio:.2f} |")
    return "\n".join(lines)


def compare(
    kernels: Mapping[str, Kernel], directory: Path, *, trials: int, seed: int, rounds: int
) -> Comparison:
    """Tune `kernels` with both and time what they found; `directory` takes the files of this seed."""
    from tvm_mnas.devices.core.profile import load_profile
    from tvm_mnas.evaluation.toolchain import ToolchainOptions, open_toolchain

    directory.mkdir()
    profile = load_profile("local")
    stock = run_stock(kernels, profile.target, directory / "stock", trials=trials, seed=seed)
    ours, failures = run_ours(kernels, directory / "ours", trials=trials, seed=seed)
    for name, reasons in failures.items():
        print(f"seed {seed}, ours, {name}: failed {reasons}")
    times_us = {}
    with open_toolchain(
        profile,
        ToolchainOptions(
            records=directory / "empty",
            schedules_per_kernel=1,
            seed=seed,
        ),
        logs=directory / "logs",
        scratch=directory,
    ) as toolchain:
        for label in kernels:
            if label not in stock.libraries or label not in ours.libraries:
                sides = {"stock": stock, "ours": ours}
                none = [name for name, side in sides.items() if label not in side.libraries]
                print(f"seed {seed}, {label}: no schedule of {' and '.join(none)} ran; left out")
                continue
            libraries = [stock.libraries[label], ours.libraries[label]]
            first, second = time_in_turn(toolchain, libraries, rounds=rounds, seed=seed)
            times_us[label] = (first, second)
    if not times_us:
        raise SystemExit(f"seed {seed}: no kernel ran on both sides; there is nothing to compare")
    return Comparison(seed, stock, ours, times_us)


def main() -> int:
    """Run the benchmark and print its tables; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kernels", default=",".join(KERNELS))
    parser.add_argument("--trials", type=int, default=32, help="schedules for each kernel")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=9, help="of timing the best schedules again")
    arguments = parser.parse_args()
    labels = arguments.kernels.split(",")
    if not set(labels) <= set(KERNELS):
        parser.error(f"kernels are of {', '.join(KERNELS)}, not {arguments.kernels}")

    from tvm_mnas.compiler.lowering.lower import lower_network
    from tvm_mnas.devices.core.profile import load_profile

    lowered = lower_network(
        settled_network("mnasnet-b1"), (1, 3, 224, 224), load_profile("local").target
    )
    kernels = pick_kernels(lowered.kernels, labels)
    print(f"{arguments.trials} schedules for each of {len(kernels)} kernels of MnasNet-B1 at 224:")
    for label, kernel in kernels.items():
        print(f"  {label}: {kernel.name}, {kernel.flops / 1e6:.1f} MFLOP")
    comparisons = []
    with tempfile.TemporaryDirectory(prefix="stock-") as text:
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
            one = compare(
                kernels,
                Path(text) / str(seed),
                trials=arguments.trials,
                seed=seed,
                rounds=arguments.rounds,
            )
            print(
                f"seed {seed}: stock {one.stock.trials} schedules in {one.stock.duration_s:.0f} s, "
                f"ours {one.ours.trials} in {one.ours.duration_s:.0f} s",
                flush=True,
            )
            comparisons.append(one)
    print(f"\n{table(comparisons)}")
    return 0


if __name__ == "__main__":
    sys.exit(tune_stock(Path(sys.argv[2])) if sys.argv[1:2] == ["--stock"] else main())
