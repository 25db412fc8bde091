"""What a cluster's accelerators and devices do during a search: the real loop, sampler and pipeline on a virtual clock.

    python benchmarks/cluster_simulation.py                                      # 8,000 candidates a line: half an hour
    python benchmarks/cluster_simulation.py --accelerators 64 --devices 2 --lags 0,1,2 --trials 2000
    python benchmarks/cluster_simulation.py --training-min 40 --lost 0.02        # every fiftieth training lost once

Nothing is trained or measured: an executor and a toolchain spend times on the clock instead. A training takes
--training-min on average, half of it in proportion to the candidate's mult-adds, times a random factor; a candidate
takes --device-s on a device, and a new kernel --kernel-s of tuning. Beside each line stands the loop in lock-step: a
batch trains, then it is compiled and measured, one candidate after the other on one device. A lost training, as when
a node dies, is begun again.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import math
import random
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

import optuna

from tvm_mnas.compiler.build.artifact import CompiledArtifact
from tvm_mnas.compiler.core.kernel import LoweredNetwork
from tvm_mnas.config import SearchConfig
from tvm_mnas.devices.core.latency import Latency
from tvm_mnas.evaluation.executors.protocol import Executor, TaskOutcome
from tvm_mnas.evaluation.pipeline import CandidatePipeline
from tvm_mnas.evaluation.results import CandidateSource
from tvm_mnas.evaluation.streaming import Job, Stream, Workers
from tvm_mnas.models.cost import count_cost
from tvm_mnas.search.algorithms.by_name import AlgorithmRequest, make_sampler
from tvm_mnas.search.loop import run_trials
from tvm_mnas.search.run import RunDirectory
from tvm_mnas.space.architecture import Architecture
from tvm_mnas.space.files import load_space
from tvm_mnas.space.kernels import architecture_kernels
from tvm_mnas.training.accuracy import Accuracy
from tvm_mnas.training.recipe import Recipe

TARGET = '{"kind": "llvm", "num-cores": 1}'


@dataclass(frozen=True)
class Cluster:
    """What there is, and how long things take."""

    accelerators: int
    devices: int
    training_s: float = 1200.0
    device_s: float = 3.0
    compile_s: float = 1.0
    kernel_s: float = 4.0
    spread: float = 0.1
    lost: float = 0.0


class Clock:
    """Events in the order of their times; `spend` is how what is called says how long it takes."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = itertools.count()
        self._spent: float | None = None

    def after(self, delay_s: float, call: Callable[[], None]) -> None:
        """Have `call` called so much later."""
        heapq.heappush(self._events, (self.now_s + delay_s, next(self._number), call))

    def advance(self) -> None:
        """Go on to the next event."""
        self.now_s, _, call = heapq.heappop(self._events)
        call()

    def spend(self, duration_s: float) -> None:
        """Take so long: the worker whose job this is, or where there is none everything else."""
        if self._spent is None:
            self.now_s += duration_s
        else:
            self._spent += duration_s

    def timed(self, job: Job) -> tuple[float, Callable[[], None]]:
        """Return how long a job takes, and what it returns."""
        self._spent = 0.0
        left = job()
        spent, self._spent = self._spent, None
        return spent, left


@dataclass
class VirtualWorkers:
    """So many that do jobs on the clock."""

    clock: Clock
    idle: int
    busy_s: float = 0.0
    _jobs: list[tuple[int, int, Job]] = field(default_factory=list)
    _number: Any = field(default_factory=itertools.count)

    def put(self, priority: int, work: Job) -> None:
        """Begin the job, or keep it until somebody is idle."""
        heapq.heappush(self._jobs, (priority, next(self._number), work))
        self._start()

    def end(self) -> None:
        """Nothing is left to end."""

    def _start(self) -> None:
        while self.idle and self._jobs:
            self.idle -= 1
            duration_s, left = self.clock.timed(heapq.heappop(self._jobs)[2])
            self.busy_s += duration_s
            self.clock.after(duration_s, lambda left=left: self._end(left))  # type: ignore[misc]

    def _end(self, left: Callable[[], None]) -> None:
        self.idle += 1
        left()
        self._start()


@dataclass
class VirtualEngine:
    """Does a stream's jobs on the clock."""

    clock: Clock
    busy: dict[str, VirtualWorkers] = field(default_factory=dict)

    def workers(self, name: str, count: int) -> Workers:
        """Return `count` workers on the clock."""
        self.busy[name] = VirtualWorkers(self.clock, count)
        return self.busy[name]

    def wait(self, executor: Executor, *, training: bool) -> None:
        """Go on to the next event."""
        self.clock.advance()


class VirtualExecutor:
    """Trains nobody on so many accelerators; what is lost in the middle is begun again."""

    def __init__(self, clock: Clock, cluster: Cluster, *, seed: int) -> None:
        self._clock, self._cluster = clock, cluster
        self._rng = random.Random(f"executor/{seed}")
        self._idle = cluster.accelerators
        self._queue: list[tuple[Any, Callable[[TaskOutcome[Any]], None]]] = []
        self._mean: float | None = None
        self.busy_s = 0.0
        self.lost = 0

    def submit(
        self, function: object, task: Any, on_end: Callable[[TaskOutcome[Any]], None]
    ) -> Any:
        """Begin the task, or keep it until an accelerator is idle."""
        self._queue.append((task, on_end))
        self._start()
        return SimpleNamespace(steps=0)

    def poll(self, timeout_s: float) -> None:
        """Go on to the next event."""
        self._clock.advance()

    def _start(self) -> None:
        while self._idle and self._queue:
            self._idle -= 1
            task, on_end = self._queue.pop(0)
            self._train(task, on_end, self._duration_s(task.candidate))

    def _train(
        self, task: Any, on_end: Callable[[TaskOutcome[Any]], None], duration_s: float
    ) -> None:
        if self._rng.random() < self._cluster.lost:
            part_s = duration_s * self._rng.random()
            self.lost += 1
            self.busy_s += part_s
            self._clock.after(part_s, lambda: self._train(task, on_end, duration_s))
            return
        self.busy_s += duration_s
        self._clock.after(duration_s, lambda: self._end(task, on_end))

    def _end(self, task: Any, on_end: Callable[[TaskOutcome[Any]], None]) -> None:
        self._idle += 1
        accuracy = Accuracy(0.5, 1000, 1, 1.0, 1.0, 0, "validation")
        on_end(TaskOutcome(accuracy, None))
        self._start()

    def _duration_s(self, candidate: Architecture) -> float:
        mult_adds = count_cost(candidate).mult_adds
        self._mean = self._mean or mean_mult_adds()
        factor = math.exp(self._rng.gauss(0.0, self._cluster.spread))
        return self._cluster.training_s * (0.5 + 0.5 * mult_adds / self._mean) * factor


def mean_mult_adds() -> float:
    """Return the mean of 500 networks of the paper's space."""
    space, rng = load_space("mnasnet"), random.Random(0)
    return statistics.fmean(
        count_cost(space.decode(space.sample(rng))).mult_adds for _ in range(500)
    )


class VirtualToolchain:
    """Compiles and measures nothing, and says how long that would take; new kernels cost their tuning once."""

    def __init__(self, clock: Clock, cluster: Cluster, *, lock_step: bool) -> None:
        self._clock, self._cluster = clock, cluster
        self.profile = SimpleNamespace(is_local=lock_step)
        self.farm = SimpleNamespace(capacity=cluster.devices)
        self._tuned: set[object] = set()
        self.compiling_s = 0.0

    def lower(self, network: Any, shape: Any) -> LoweredNetwork:
        """Keep the candidate where its module would be."""
        return LoweredNetwork((1, 3, 224, 224), TARGET, (), network)

    def missing(self, lowered: LoweredNetwork) -> list[Any]:
        """Return the kernels that nobody had before."""
        new = set(architecture_kernels(lowered.module)) - self._tuned
        return [SimpleNamespace(key=str(kernel)) for kernel in new]

    def tune(self, networks: Sequence[LoweredNetwork], *, on_progress: object) -> Any:
        """Spend the time of the new kernels."""
        new: set[object] = set()
        for lowered in networks:
            new |= set(architecture_kernels(lowered.module)) - self._tuned
        self._tuned |= new
        self._compile(len(new) * self._cluster.kernel_s)
        return SimpleNamespace(kernels=[], duration_s=0.0)

    def kernels_us(self, lowered: LoweredNetwork) -> float | None:
        """Nobody asks for it."""
        return None

    def compile(self, lowered: LoweredNetwork, path: Path) -> CompiledArtifact:
        """Spend the compiler's time."""
        self._compile(self._cluster.compile_s)
        return CompiledArtifact(path, 3, 3, 24, 1.0, 1000, (1, 3, 224, 224), "float32")

    def _compile(self, duration_s: float) -> None:
        self.compiling_s += duration_s
        self._clock.spend(duration_s)

    def check_network(self, artifact: object, judge: object, *, seed: int) -> None:
        """Measured with it."""

    def measure(self, artifact: object) -> Latency:
        """Spend the device's time."""
        self._clock.spend(self._cluster.device_s)
        return Latency(
            samples_ms=(80.0,),
            device_key="virtual",
            fingerprint="none",
            target=TARGET,
            tvm_version="none",
            measured_at="2026-01-01T00:00:00+00:00",
            emulated=False,
            max_spread=0.1,
        )


@dataclass(frozen=True)
class Outcome:
    """How long a search took, and the share of that for which accelerators, devices and the compiler were at work."""

    makespan_s: float
    accelerators: float
    devices: float
    compiler: float
    lost: int

    @property
    def bottleneck(self) -> str:
        """What had less rest."""
        shares = {
            "accelerators": self.accelerators,
            "devices": self.devices,
            "compiler": self.compiler,
        }
        return max(shares, key=lambda name: shares[name])


def simulate(
    cluster: Cluster,
    *,
    trials: int,
    batch: int,
    lag: int,
    algorithm: str = "random",
    seed: int = 0,
    lock_step: bool = False,
) -> Outcome:
    """Return what a search on `cluster` would do with its time."""
    clock = Clock()
    engine = VirtualEngine(clock)
    executor = VirtualExecutor(clock, cluster, seed=seed)
    toolchain = VirtualToolchain(clock, cluster, lock_step=lock_step)
    config = SearchConfig(
        space="mnasnet",
        target_latency_ms=80.0,
        algorithm=algorithm,
        trials=trials,
        batch=batch,
        lag=lag,
        seed=seed,
    )
    silent: Any = SimpleNamespace(stage=lambda *_: None, note=lambda text: None)
    with tempfile.TemporaryDirectory() as name:
        pipeline = CandidatePipeline(
            config,
            Recipe(steps=1),
            ("cpu",),
            cast(Any, toolchain),
            cast(Any, executor),
            Path(name),
            silent,
        )

        class Streaming:
            def stream(self, source: CandidateSource) -> Any:
                return Stream(pipeline, source, engine=engine).run()

        space = load_space("mnasnet")
        run = RunDirectory(Path(name), config)
        request = AlgorithmRequest(
            decisions=space.decisions, reward=run.reward, seed=seed, batch_size=batch, lag=lag
        )
        study = optuna.create_study(
            directions=["maximize", "minimize"], sampler=make_sampler(algorithm, request)
        )
        # No network is built, which takes the real time of thousands: the candidate stands for its module.
        with (
            mock.patch("tvm_mnas.models.candidates.build_candidate", _stand_for_its_module),
            mock.patch("tvm_mnas.evaluation.pipeline.torch_judge", return_value=None),
        ):
            run_trials(run, space, study, pipeline if lock_step else cast(Any, Streaming()))
    devices_s = trials * cluster.device_s if lock_step else engine.busy["measure"].busy_s
    compiler_s = toolchain.compiling_s
    return Outcome(
        makespan_s=clock.now_s,
        accelerators=executor.busy_s / (cluster.accelerators * clock.now_s),
        devices=devices_s / (cluster.devices * clock.now_s),
        compiler=compiler_s / clock.now_s,
        lost=executor.lost,
    )


def _stand_for_its_module(candidate: Any, **_: object) -> Any:
    return SimpleNamespace(eval=lambda: candidate)


def numbers(text: str) -> list[int]:
    """Return the whole numbers in a text with commas between."""
    return [int(part) for part in text.split(",")]


def main() -> None:
    """Print a line for each cluster and lag, with the loop in lock-step beside it."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--accelerators", type=numbers, default=[1, 16, 64, 256])
    parser.add_argument("--devices", type=numbers, default=[1, 2, 8])
    parser.add_argument("--lags", type=numbers, default=[0, 1, 2])
    parser.add_argument("--trials", type=int, default=8000)
    parser.add_argument(
        "--batch", type=int, default=0, help="0: two candidates an accelerator, 16 at least"
    )
    parser.add_argument("--algorithm", default="random")
    parser.add_argument("--training-min", type=float, default=20.0)
    parser.add_argument("--device-s", type=float, default=3.0)
    parser.add_argument("--kernel-s", type=float, default=4.0)
    parser.add_argument("--spread", type=float, default=0.1)
    parser.add_argument(
        "--lost", type=float, default=0.0, help="the share of trainings lost in the middle"
    )
    arguments = parser.parse_args()
    print(
        "| accelerators | devices | batch | lag | hours | accelerators at work | devices | compiler and tuner "
        "| bottleneck | lost |"
    )
    print("| ---: | ---: | ---: | --- | ---: | ---: | ---: | ---: | --- | ---: |")
    for accelerators, devices in itertools.product(arguments.accelerators, arguments.devices):
        cluster = Cluster(
            accelerators,
            devices,
            training_s=60 * arguments.training_min,
            device_s=arguments.device_s,
            kernel_s=arguments.kernel_s,
            spread=arguments.spread,
            lost=arguments.lost,
        )
        batch = arguments.batch or max(16, 2 * accelerators)
        for lag in ("lock-step", *arguments.lags):
            found = simulate(
                cluster,
                trials=arguments.trials,
                batch=batch,
                lag=0 if lag == "lock-step" else int(lag),
                algorithm=arguments.algorithm,
                lock_step=lag == "lock-step",
            )
            print(
                f"| {accelerators} | {devices} | {batch} | {lag} | {found.makespan_s / 3600:.1f} "
                f"| {found.accelerators:.1%} | {found.devices:.1%} | {found.compiler:.1%} "
                f"| {found.bottleneck} | {found.lost} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
