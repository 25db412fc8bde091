"""What `tvm-mnas table build` does: evaluate every architecture of a space once, in hours, and go on after anything.

Accuracies come first, budget by budget, each architecture with two seeds; then latencies (`table_timing.py`), which no
training disturbs. Every finished training and latency is a line on disk, and a build begun again does what is missing.
"""

from __future__ import annotations

import itertools
import json
import platform
import random
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from tvm_mnas import __version__
from tvm_mnas.config import SearchConfig
from tvm_mnas.errors import ConfigError, RunError
from tvm_mnas.evaluation.executors.protocol import Executor, run_all
from tvm_mnas.evaluation.results import Observer
from tvm_mnas.evaluation.tables.files import (
    ACCURACIES,
    FILES,
    MANIFEST,
    accuracies_of,
    accuracy_line,
    append_lines,
    checksums,
    read_entries,
    read_lines,
    sort_lines,
    write_manifest,
)
from tvm_mnas.evaluation.tables.manifest import TableManifest
from tvm_mnas.evaluation.tables.table import (
    KINDS,
    SEEDS,
    EvaluationTable,
    accuracy_spread,
    latency_spread,
)
from tvm_mnas.evaluation.trainers import TrainTask, run_training
from tvm_mnas.files import atomic_write_text
from tvm_mnas.space.architecture import Architecture
from tvm_mnas.space.catalogue import find_space
from tvm_mnas.space.space import SearchSpace
from tvm_mnas.training.data.sources import check_data
from tvm_mnas.training.recipe import find_recipe
from tvm_mnas.workflows.table_timing import DEVICE, TimingPlan, read_device, time_networks

MOST_ARCHITECTURES = 20_000
"""A larger space is one to search, and none to know whole."""
_PLAN = "build.json"
"""In a table that is not finished: what is built."""
_SIDE_BY_SIDE = 64
"""Trainings that are given out at once: an interruption loses those under way alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TablePlan:
    """What a table is built of: a space, data and a recipe, the steps of the trainings, and the device to time on.

    Of a large space, `architectures` are drawn evenly, each once; 0 takes all. With no `steps` nothing is trained. A
    kernel gets `schedules_per_kernel` schedules. `seed` decides the held-out images, every training and that draw.
    """

    space: str
    data: str
    recipe: str
    steps: tuple[int, ...]
    device: str
    schedules_per_kernel: int
    seed: int
    architectures: int = 0

    def __post_init__(self) -> None:
        if any(steps < 1 for steps in self.steps):
            raise ConfigError(f"training steps are 1 or more, not {list(self.steps)}")
        if self.architectures == 1 or self.architectures < 0:
            raise ConfigError(
                f"a table has two architectures or more, not {self.architectures}; 0 takes the whole space"
            )
        if list(self.steps) != sorted(set(self.steps)):
            raise ConfigError(
                f"a table's training steps ascend, each once, not {list(self.steps)}; "
                f"for example --steps 60,240,960"
            )


def build_table(
    directory: Path, plan: TablePlan, *, records: Path, executor: Executor, observer: Observer
) -> EvaluationTable:
    """Build the table `plan` in `directory`, or go on with it, and return it.

    Tuning records are kept in `records`. The executor is entered here, and left before anything is timed.

    Raises:
        ConfigError, SpaceError, DataError: if something that the plan names is not there, or does not fit.
        RunError: if `directory` holds another table.
        CandidateError: if a network cannot be trained or compiled: a table has no holes.
        DeviceError: if the device stays lost; what was finished is kept.
    """
    space = _space(plan.space)
    if plan.steps:
        find_recipe(plan.recipe, {"steps": plan.steps[0]})
        check_data(plan.data)
    if (directory / MANIFEST).is_file():
        raise RunError(
            f"{directory} holds a finished table; `tvm-mnas table show {directory}` shows it, another needs a "
            f"directory of its own"
        )
    architectures = architectures_of(space, count=plan.architectures, seed=plan.seed)
    directory.mkdir(parents=True, exist_ok=True)
    _keep_plan(directory, plan)
    _train(directory, plan, architectures, executor, observer)
    time_networks(
        directory,
        architectures,
        TimingPlan(
            device=plan.device,
            records=records,
            schedules_per_kernel=plan.schedules_per_kernel,
            seed=plan.seed,
        ),
        observer=observer,
    )
    return _finish(directory, plan, space, architectures)


def architectures_of(space: SearchSpace, *, count: int = 0, seed: int = 0) -> list[Architecture]:
    """Return every architecture of `space` in the order of its tokens, or `count` that `seed` draws, each once.

    Raises:
        ConfigError: if there are too many, or two choices mean the same one, or there are fewer than `count`.
    """
    if count > space.size:
        raise ConfigError(f"the space {space.name} has {space.size:,} architectures, not {count:,}")
    if count:
        rng, drawn = random.Random(seed), dict[str, Architecture]()
        while len(drawn) < count:
            architecture = space.decode(space.sample(rng))
            drawn.setdefault(architecture.id, architecture)
        return list(drawn.values())
    if space.size > MOST_ARCHITECTURES:
        raise ConfigError(
            f"a table holds every architecture of its space, at most {MOST_ARCHITECTURES:,}, and {space.name} has "
            f"{space.size:,}; take some of them (--architectures 100), or a smaller space, such as fashion-mini"
        )
    choices = [range(len(decision.choices)) for decision in space.decisions]
    architectures = [space.decode(tokens) for tokens in itertools.product(*choices)]
    if len({one.notation for one in architectures}) != len(architectures):
        raise ConfigError(
            f"two choices of the space {space.name} mean the same architecture; leave one of them out"
        )
    return architectures


def _space(name: str) -> SearchSpace:
    space = find_space(name)
    if not isinstance(space, SearchSpace):
        raise ConfigError(
            f"a table is of a space in a TOML file, and {name} is one in code; write it as a file"
        )
    return space


def _keep_plan(directory: Path, plan: TablePlan) -> None:
    file = directory / _PLAN
    values = json.loads(json.dumps(asdict(plan)))
    if not file.is_file():
        if found := [name for name in FILES if (directory / name).exists()]:
            raise RunError(
                f"{directory} holds {found[0]} and no {_PLAN}: it is no table under construction; name another"
            )
        atomic_write_text(file, json.dumps(values, indent=1) + "\n")
        return
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(f"{file} cannot be read: {error}; start in another directory") from error
    changed = sorted(name for name in values if stored.get(name) != values[name])
    if changed:
        raise RunError(
            f"{directory} holds a table under construction with another {', '.join(changed)}; "
            f"go on with the same settings, or name another directory"
        )


def _train(
    directory: Path,
    plan: TablePlan,
    architectures: list[Architecture],
    unopened: Executor,
    observer: Observer,
) -> None:
    config = SearchConfig(data=plan.data, seed=plan.seed, recipe=plan.recipe)
    file = directory / ACCURACIES
    # Its checksum is in the manifest, of a table without trainings too.
    file.touch()
    done = accuracies_of(read_lines(file))
    due: list[tuple[Architecture, int, int]] = []
    for steps in plan.steps:
        missing = [
            (architecture, replicate, steps)
            for architecture in architectures
            for replicate in range(SEEDS)
            if replicate not in done.get(architecture.notation, {}).get(steps, {})
        ]
        # Mixed, so that what is slow or small does not come all at once, and the time left can be told.
        random.Random(f"{plan.seed}:{steps}").shuffle(missing)
        due += missing
    total = len(plan.steps) * SEEDS * len(architectures)
    finished = total - len(due)
    if not due:
        return
    with unopened as executor:
        for at in range(0, len(due), _SIDE_BY_SIDE):
            part = due[at : at + _SIDE_BY_SIDE]
            tasks = [
                TrainTask.of(
                    architecture,
                    config,
                    find_recipe(plan.recipe, {"steps": steps}),
                    executor.devices,
                    again=bool(replicate),
                )
                for architecture, replicate, steps in part
            ]
            for index, outcome in run_all(executor, run_training, tasks):
                architecture, replicate, _ = part[index]
                accuracy = outcome.get()
                append_lines(file, [accuracy_line(architecture.notation, replicate, accuracy)])
                finished += 1
                observer.stage("trainings", finished, total)


def _finish(
    directory: Path, plan: TablePlan, space: SearchSpace, architectures: list[Architecture]
) -> EvaluationTable:
    sort_lines(directory, [architecture.notation for architecture in architectures])
    device, cpu = read_device(directory)
    entries, kernels = read_entries(directory, plan.steps, device)
    moments = sorted(latency.measured_at for entry in entries for latency in entry.tuned)
    manifest = TableManifest(
        name=directory.resolve().name,
        space=space.name,
        space_fingerprint=space.fingerprint,
        architectures=len(architectures),
        data=plan.data,
        recipe=plan.recipe,
        steps=plan.steps,
        seed=plan.seed,
        schedules_per_kernel=plan.schedules_per_kernel,
        device=device,
        cpu=cpu,
        timed=(moments[0], moments[-1]),
        versions={
            "tvm-mnas": __version__,
            "python": platform.python_version(),
            **{package: version(package) for package in ("apache-tvm", "torch", "numpy")},
        },
        accuracy={str(steps): accuracy_spread(entries, steps) for steps in plan.steps},
        latency={kind: latency_spread(entries, kind) for kind in KINDS},
        files=checksums(directory),
    )
    write_manifest(directory, manifest)
    for name in (_PLAN, DEVICE):
        (directory / name).unlink()
    return EvaluationTable(manifest, entries, kernels)
