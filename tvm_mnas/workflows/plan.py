"""What `tvm-mnas search --plan` does: measures a few steps and kernels, and tells what the whole search would take.

Trainings run side by side as they do in the search, for a few steps each. One candidate's kernels are tuned, compiled
and measured on the device; its records stay, so that the search begins with them. Everything else is counted.
"""

from __future__ import annotations

import itertools
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvm_mnas.config import SearchConfig
from tvm_mnas.errors import ConfigError
from tvm_mnas.evaluation.executors.protocol import Executor, ExecutorRequest, run_all
from tvm_mnas.evaluation.results import Observer
from tvm_mnas.evaluation.toolchain import Toolchain, ToolchainOptions, open_scratch_toolchain
from tvm_mnas.evaluation.trainers import TrainTask
from tvm_mnas.plugins import DEVICE_EVALUATOR, EXECUTORS
from tvm_mnas.search.proxy import MOST_REPLICATES
from tvm_mnas.search.session import FINAL_FACTOR
from tvm_mnas.space.candidate import Candidate
from tvm_mnas.space.catalogue import Space
from tvm_mnas.space.space import SearchSpace
from tvm_mnas.training.recipe import Recipe
from tvm_mnas.workflows.tune import make_forecast

if TYPE_CHECKING:
    from tvm_mnas.compiler.core.kernel import LoweredNetwork
    from tvm_mnas.training.data.splits import Batch, Split

SCHEMA_VERSION = 1
"""Of what `tvm-mnas search --plan --json` prints; rises when a key changes its meaning."""
WARM_STEPS = 2
TIMED_STEPS = 8
EVALUATED_IMAGES = 512
MOST_LOWERED = 12
"""So many candidates of a space whose kernels cannot be counted are lowered to count them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPace:
    """How fast one training goes while others run beside it, and on how much data.

    `step_s` is a step of `batch_size` images, `evaluated_per_s` the images a second of an evaluation.
    """

    step_s: float
    batch_size: int
    evaluated_per_s: float
    train_images: int
    validation_images: int

    @property
    def images_per_s(self) -> float:
        """Images that one training takes in a second."""
        return self.batch_size / self.step_s


@dataclass(frozen=True, slots=True, kw_only=True)
class DevicePace:
    """What the device needs: kernels to tune and their pace, and what a candidate takes once they are there.

    `kernels` of which `lacking` have no schedules yet are those that candidates draw from; `all_known` says that
    these are all, not those of some candidates.
    """

    kernels: int
    lacking: int
    all_known: bool
    schedules: int
    schedule_s: float
    candidate_s: float

    @property
    def tuning_s(self) -> float:
        """What tuning all the kernels takes, in seconds."""
        return self.schedules * self.schedule_s


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchPlan:
    """What a search would take. `places` is what trains, accelerators or cores, `at_once` how many trainings run.

    `trainings` counts those of candidates, as long as the recipe says: each trial is taken for another candidate, which
    is the most that there can be.
    """

    trials: int
    replicates: int
    finalists: int
    final_factor: float
    places: str
    at_once: int
    steps: int
    epochs: float
    training: TrainingPace
    device: DevicePace

    @property
    def candidate_training_s(self) -> float:
        """What training and evaluating one candidate takes."""
        training = self.training
        return self.steps * training.step_s + training.validation_images / training.evaluated_per_s

    @property
    def training_s(self) -> float:
        """What all trainings take, one after the other: accelerator-seconds, or core-seconds."""
        again = self.finalists * self.final_factor
        return self.candidate_training_s * (self.trials + self.replicates + again)

    @property
    def device_s(self) -> float:
        """How long the device is at work."""
        return self.device.tuning_s + self.trials * self.device.candidate_s

    def total_s(self, at_once: int) -> float:
        """Return what the search takes with so many trainings at once, in seconds.

        While one measures, nothing is trained: the stages of a batch follow each other.
        """
        return self.training_s / at_once + self.device_s

    @property
    def bottleneck(self) -> str:
        """What most of the time goes to: `training` or `device`."""
        return "training" if self.training_s / self.at_once > self.device_s else "device"

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, with what follows from the fields."""
        return {
            "schema": SCHEMA_VERSION,
            **asdict(self),
            "images_per_s": self.training.images_per_s,
            "candidate_training_s": self.candidate_training_s,
            "training_s": self.training_s,
            "tuning_s": self.device.tuning_s,
            "device_s": self.device_s,
            "bottleneck": self.bottleneck,
            "total_s": {str(count): self.total_s(count) for count in (self.at_once, 1, 8, 64)},
        }


def plan_search(
    config: SearchConfig, recipe: Recipe, space: Space, *, observer: Observer
) -> SearchPlan:
    """Measure a little, and return what the search of `config` would take; its records get those of one candidate.

    Raises:
        ConfigError: for a trainer of one's own, whose pace only it knows, and an evaluator that is not the device.
        DataError: if the data is missing or does not fit.
        CandidateError: if the sampled candidate cannot be trained, compiled or measured.
        DeviceError: if the device cannot be reached.
    """
    if config.evaluator != DEVICE_EVALUATOR:
        raise ConfigError(
            f"a plan measures what a search on a device would take, and {config.evaluator} measures nothing here; "
            f"leave out --plan"
        )
    if config.trainer != "proxy":
        raise ConfigError(
            f"a plan knows how long the trainer that ships takes, not {config.trainer!r}; leave out --plan, and look "
            f"at the times of the first batch"
        )
    request = ExecutorRequest(
        jobs=config.jobs, train_device=config.train_device, on_warning=observer.note
    )
    generator = random.Random(config.seed)
    opened: AbstractContextManager[Executor] = EXECUTORS.load(config.executor)(request)
    with opened as executor:
        devices, at_once = executor.devices, executor.slots
        candidates = [
            space.decode(space.sample(generator)) for _ in range(max(at_once, MOST_LOWERED))
        ]
        pace = _training_pace(config, recipe, executor, candidates[:at_once], observer)
    device = _device_pace(config, space, candidates, observer)
    plan = recipe.plan(pace.train_images)
    replicates = -(-config.trials // config.replicates) if config.replicates else 0
    final = config.final_steps / plan.steps if config.final_steps else FINAL_FACTOR
    return SearchPlan(
        trials=config.trials,
        replicates=min(replicates, MOST_REPLICATES),
        finalists=config.finalists,
        final_factor=final,
        places="cores" if devices == ("cpu",) else "accelerators",
        at_once=at_once,
        steps=plan.steps,
        epochs=plan.epochs,
        training=pace,
        device=device,
    )


def _training_pace(
    config: SearchConfig,
    recipe: Recipe,
    executor: Executor,
    candidates: Sequence[Candidate],
    observer: Observer,
) -> TrainingPace:
    tasks = [TrainTask.of(candidate, config, recipe, executor.devices) for candidate in candidates]
    total = len(tasks) * (WARM_STEPS + TIMED_STEPS)
    outcomes = run_all(
        executor,
        probe_training,
        tasks,
        on_progress=lambda done: observer.stage("training a few steps", done, total),
    )
    paces = [outcome.get() for _, outcome in outcomes]
    return replace(
        paces[0],
        step_s=statistics.fmean(pace.step_s for pace in paces),
        evaluated_per_s=statistics.fmean(pace.evaluated_per_s for pace in paces),
    )


def probe_training(task: TrainTask, report: Callable[[int], None]) -> TrainingPace:
    """Train what `task` names for a few steps, evaluate some images, and return how fast that went.

    Raises what a training does.
    """
    import torch

    from tvm_mnas.training.detection.splits import DetectionSplit
    from tvm_mnas.training.loop import run_training, start_training
    from tvm_mnas.training.tasks import task_of

    splits = task.splits()
    learnt = task_of(task.candidate)
    plan = replace(task.recipe.plan(len(splits.train)), steps=WARM_STEPS + TIMED_STEPS)
    state = start_training(task.candidate, plan, seed=task.seed, device=task.device)
    ended: list[float] = []

    def look(now: object) -> None:
        if task.device != "cpu":
            torch.cuda.synchronize()
        ended.append(time.perf_counter())
        report(len(ended))

    run_training(
        state, plan, splits, task=learnt, seed=task.seed, device=task.device, on_state=look
    )
    validation = splits.validation
    some: Split = _FirstImages(validation, EVALUATED_IMAGES)
    if isinstance(validation, DetectionSplit):
        some = validation.first(EVALUATED_IMAGES)
    began = time.perf_counter()
    score = learnt.evaluate(state.best_network, some, splits.normalization)
    return TrainingPace(
        step_s=(ended[-1] - ended[WARM_STEPS - 1]) / TIMED_STEPS,
        batch_size=task.recipe.batch_size,
        evaluated_per_s=score.samples / (time.perf_counter() - began),
        train_images=len(splits.train),
        validation_images=len(splits.validation),
    )


@dataclass(frozen=True, slots=True)
class _FirstImages:
    """The first images of a split, for an evaluation that is only timed."""

    split: Split
    images: int

    def __len__(self) -> int:
        return min(self.images, len(self.split))

    def train_batches(self, *, batch_size: int, steps: int, seed: int) -> Iterator[Batch]:
        """Yield the split's."""
        return self.split.train_batches(batch_size=batch_size, steps=steps, seed=seed)

    def eval_batches(self, *, batch_size: int) -> Iterator[Batch]:
        """Yield batches of the first images, whole ones."""
        count = -(-len(self) // batch_size)
        return itertools.islice(self.split.eval_batches(batch_size=batch_size), count)


def _device_pace(
    config: SearchConfig, space: Space, candidates: Sequence[Candidate], observer: Observer
) -> DevicePace:
    from tvm_mnas.compiler.core.kernel import distinct_kernels
    from tvm_mnas.compiler.records.layered import store_name
    from tvm_mnas.devices.core.profile import load_profile

    profile = load_profile(config.device)
    options = ToolchainOptions(
        records=Path(config.records),
        schedules_per_kernel=config.schedules_per_kernel,
        seed=config.seed,
        max_untuned_share=config.max_untuned_share,
    )
    sources, all_known = _sources(space, candidates, config)
    with open_scratch_toolchain(profile, options, on_warning=observer.note) as (toolchain, scratch):
        first, measured_s = _measure_one(toolchain, candidates[0], scratch, config.seed, observer)
        networks = [first]
        for done, candidate in enumerate(sources):
            observer.stage("counting kernels", done, len(sources))
            networks.append(_lower(toolchain, candidate, config.seed))
        kernels = distinct_kernels(networks)
        forecast = make_forecast(
            kernels,
            toolchain.store,
            directory=options.records / store_name(profile.key, profile.target),
            schedules_per_kernel=config.schedules_per_kernel,
        )
    return DevicePace(
        kernels=forecast.kernels,
        lacking=forecast.lacking,
        all_known=all_known,
        schedules=forecast.schedules,
        schedule_s=forecast.seconds_per_schedule or 0.0,
        candidate_s=measured_s,
    )


def _sources(
    space: Space, candidates: Sequence[Candidate], config: SearchConfig
) -> tuple[Sequence[Candidate], bool]:
    """Return candidates that have the kernels which the search will meet, and whether they have all of them."""
    if isinstance(space, SearchSpace):
        from tvm_mnas.space.kernels import cover

        covering = cover(space, config.seed)
        if len(covering) <= config.trials:
            return covering, True
    return candidates[: config.trials], config.trials <= len(candidates)


def _lower(toolchain: Toolchain, candidate: Candidate, seed: int) -> LoweredNetwork:
    from tvm_mnas.models.candidates import build_candidate

    network = build_candidate(candidate, seed=seed).eval()
    # Without its module, which holds the weights: those of a whole space are many.
    return replace(toolchain.lower(network, candidate.image_shape), module=None)


def _measure_one(
    toolchain: Toolchain, candidate: Candidate, scratch: Path, seed: int, observer: Observer
) -> tuple[LoweredNetwork, float]:
    """Tune and measure one candidate; return it lowered, and what one takes whose kernels are tuned and compiled."""
    from tvm_mnas.evaluation.agreement import torch_judge
    from tvm_mnas.models.candidates import build_candidate

    network = build_candidate(candidate, seed=seed).eval()
    shape = candidate.image_shape
    lowered = toolchain.lower(network, shape)
    if toolchain.missing(lowered):
        toolchain.tune(
            [lowered],
            on_progress=lambda done, total: observer.stage("tuning a candidate", done, total),
        )
    observer.stage("measuring a candidate", 0, 1)
    toolchain.compile(lowered, scratch / "plan.so")
    began = time.perf_counter()
    lowered = toolchain.lower(network, shape)
    artifact = toolchain.compile(lowered, scratch / "plan.so")
    toolchain.check_network(artifact, torch_judge(network, batch_size=shape[0]), seed=seed)
    toolchain.measure(artifact)
    return replace(lowered, module=None), time.perf_counter() - began
