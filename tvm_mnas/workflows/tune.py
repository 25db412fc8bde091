"""The kernels of one network, or of a whole space, tuned ahead of any search: what `tvm-mnas tune` does."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvm_mnas.errors import BuildError, ConfigError
from tvm_mnas.evaluation.results import Observer, format_duration
from tvm_mnas.evaluation.toolchain import ToolchainOptions, open_scratch_toolchain
from tvm_mnas.workflows.model_ref import ModelRef, Shape, resolve_model

if TYPE_CHECKING:
    from tvm_mnas.compiler.core.kernel import Kernel, LoweredNetwork
    from tvm_mnas.compiler.records.base import TuningRecords
    from tvm_mnas.compiler.tuning.tuner import TuningReport

SCHEMA_VERSION = 1
"""Of what `tvm-mnas tune --json` prints; rises when a key changes its meaning."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a tuning will take: kernels in all, those that lack schedules, schedules to measure at most.

    `seconds_per_schedule` is what one took in the tunings before, None where there were none.
    """

    kernels: int
    lacking: int
    schedules: int
    seconds_per_schedule: float | None

    @property
    def expected_s(self) -> float | None:
        """The time that the tuning will take, in seconds, None if unknown."""
        if self.seconds_per_schedule is None:
            return None
        return self.schedules * self.seconds_per_schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelTuning:
    """A kernel, the `times` that the networks run it, and what its records hold.

    `best_us` is the time of its best schedule and `share_percent` its part in the sum of all, None where none ran;
    `schedules` are those in the records, of which this tuning `measured` some, the rest of its `failures` by reason.
    """

    kernel: str
    key: str
    times: int
    best_us: float | None
    share_percent: float | None
    schedules: int
    measured: int = 0
    failures: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TuneResult:
    """What was tuned, and all the kernels, the one that the networks spend most time in first."""

    networks: int
    forecast: Forecast
    kernels: tuple[KernelTuning, ...]
    tuned: int
    duration_s: float

    @property
    def measured(self) -> int:
        """How many schedules were measured."""
        return sum(kernel.measured for kernel in self.kernels)

    @property
    def failures(self) -> dict[str, int]:
        """How many schedules failed, by reason."""
        total: Counter[str] = Counter()
        for kernel in self.kernels:
            total.update(kernel.failures)
        return dict(total)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "schema": SCHEMA_VERSION,
            "networks": self.networks,
            "kernels_tuned": self.tuned,
            "planned": self.forecast.schedules,
            "expected_s": self.forecast.expected_s,
            "measured": self.measured,
            "failures": self.failures,
            "duration_s": self.duration_s,
            "kernels": [asdict(kernel) for kernel in self.kernels],
        }


def tune_model(
    model: str | None,
    options: ToolchainOptions,
    *,
    space: str | None,
    device: str,
    observer: Observer,
    on_forecast: Callable[[Forecast], None],
    input_shape: Shape | None = None,
) -> TuneResult:
    """Tune the kernels that lack schedules: those of `model`, or of a few networks that have all of `space`.

    `model` is a key of the zoo, a notation, an .onnx or .pt2 file, or RUN:TRIAL; exactly one of both is given.
    `input_shape` closes what is open in a file's shape. Before it starts, `on_forecast` gets the forecast. What was
    measured until an interruption is in the records.

    Raises:
        ConfigError: if both or none are given, or there is no such model.
        SpaceError: if there is no such space.
        CandidateError: if a network cannot be lowered, or none of the kernels has a schedule that ran.
        DeviceError: if the device cannot be reached or is gone.
        RecordsError: if the records cannot be read or written.
    """
    if (model is None) == (space is None):
        given = "neither" if model is None else f"both {model} and --space {space}"
        raise ConfigError(
            f"either a MODEL or a space is tuned, and {given} is given; "
            f"type `tvm-mnas tune --space {space or 'quickstart'}`, or `tvm-mnas tune MODEL`"
        )
    from tvm_mnas.compiler.build.artifact import check_build
    from tvm_mnas.compiler.core.kernel import distinct_kernels
    from tvm_mnas.compiler.records.layered import open_records, shipped_directory, store_name
    from tvm_mnas.devices.core.profile import load_profile
    from tvm_mnas.devices.core.tracker import TrackerClient

    started = time.monotonic()
    sources = _sources(model, space, input_shape, options.seed)
    profile = load_profile(device)
    if profile.tracker is not None:
        # Found out now, not after a space's networks are lowered.
        with TrackerClient(profile.tracker):
            pass
    store = open_records(
        options.records, profile_key=profile.key, target=profile.target, shipped=shipped_directory()
    )
    networks: list[LoweredNetwork] = []
    for done, source in enumerate(sources):
        observer.stage("lowering", done, len(sources))
        # Kernels do not depend on weights: random ones do.
        lowered = source.load(seed=options.seed).lower(profile)
        if model is not None:
            check_build(lowered, store)
        # Without its module, which holds the weights: those of a whole space are many.
        networks.append(replace(lowered, module=None))
    kernels = distinct_kernels(networks)
    forecast = make_forecast(
        kernels,
        store,
        directory=options.records / store_name(profile.key, profile.target),
        schedules_per_kernel=options.schedules_per_kernel,
    )
    if not forecast.lacking:
        rows = kernel_tunings(kernels, store, None)
        return TuneResult(len(networks), forecast, rows, 0, time.monotonic() - started)
    on_forecast(forecast)
    with open_scratch_toolchain(
        profile,
        options,
        on_warning=observer.note,
    ) as (toolchain, _):
        pace = _Pace(observer, options.schedules_per_kernel, known=forecast.expected_s is not None)
        report = toolchain.tune(networks, on_progress=pace.show)
        rows = kernel_tunings(kernels, toolchain.store, report)
    result = TuneResult(
        len(networks), forecast, rows, len(report.kernels), time.monotonic() - started
    )
    if all(kernel.best_us is None for kernel in report.kernels):
        raise BuildError(
            f"a kernel that is tuned has a schedule that runs, and of {len(report.kernels)} none has "
            f"({result.failures}); `tvm-mnas device list` shows whether the device is there"
        )
    return result


def make_forecast(
    kernels: Sequence[Kernel],
    store: TuningRecords,
    *,
    directory: Path,
    schedules_per_kernel: int,
) -> Forecast:
    """Return what tuning `kernels` will take; `directory` is that of the store whose history tells the pace.

    Raises:
        RecordsError: if a line of the records is damaged.
    """
    from tvm_mnas.compiler.tuning.forecast import count_planned, seconds_per_schedule

    return Forecast(
        kernels=len(kernels),
        lacking=len(store.missing(kernels, schedules_per_kernel=schedules_per_kernel)),
        schedules=count_planned(kernels, store, schedules=schedules_per_kernel),
        seconds_per_schedule=seconds_per_schedule(directory),
    )


def kernel_tunings(
    kernels: Sequence[Kernel], store: TuningRecords, report: TuningReport | None
) -> tuple[KernelTuning, ...]:
    """Return what is known of each of `kernels`, the costliest first; those without a time come last."""
    tuned = {} if report is None else {kernel.key: kernel for kernel in report.kernels}
    best_us = {kernel.key: store.best_us(kernel.key) for kernel in kernels}
    total_us = sum((best_us[kernel.key] or 0.0) * kernel.calls for kernel in kernels)
    found: list[KernelTuning] = []
    for kernel in kernels:
        each_us, done = best_us[kernel.key], tuned.get(kernel.key)
        found.append(
            KernelTuning(
                kernel=kernel.name,
                key=kernel.key,
                times=kernel.calls,
                best_us=each_us,
                share_percent=None if each_us is None else 100 * each_us * kernel.calls / total_us,
                schedules=store.schedules(kernel.key),
                measured=0 if done is None else done.schedules,
                failures={} if done is None else dict(done.failures),
            )
        )
    return tuple(sorted(found, key=lambda kernel: -(kernel.share_percent or 0.0)))


@dataclass
class _Pace:
    """Shows a tuning's progress and, where the forecast could not, once what it is going to take."""

    observer: Observer
    schedules_per_kernel: int
    known: bool
    started: float | None = None

    def show(self, done: int, total: int) -> None:
        if self.started is None:
            self.started = time.monotonic()
        self.observer.stage("tuning", done, total)
        if not self.known and 2 * self.schedules_per_kernel <= done < total:
            self.known = True
            each_s = (time.monotonic() - self.started) / done
            self.observer.note(
                f"{total - done} schedules are left, about {format_duration((total - done) * each_s)}"
            )


def _sources(
    model: str | None, space: str | None, input_shape: Shape | None, seed: int
) -> Sequence[ModelRef]:
    if model is not None:
        return (resolve_model(model, input_shape=input_shape),)
    from tvm_mnas.space.files import load_space
    from tvm_mnas.space.kernels import cover

    assert space is not None
    return [
        ModelRef(name=architecture.notation, architecture=architecture)
        for architecture in cover(load_space(space), seed)
    ]
