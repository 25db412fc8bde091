"""Several networks on one device, timed in turn: what the paper's tables compare.

All are tuned and compiled first, then timed in rounds, so that a slow minute of the machine falls on all alike.
A network that fails is a reason in its row; the others go on.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvm_mnas.errors import CandidateError, ConfigError
from tvm_mnas.evaluation.results import Observer
from tvm_mnas.evaluation.toolchain import Toolchain, ToolchainOptions, open_scratch_toolchain

if TYPE_CHECKING:
    from tvm_mnas.compiler.build.artifact import CompiledArtifact
    from tvm_mnas.devices.core.latency import Latency
    from tvm_mnas.workflows.model_ref import ModelRef


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTiming:
    """One network's latencies, one of each round, or the `failure` that it has instead.

    `kernels` and `schedules` are the distinct kernels that it was compiled from and the schedules measured for them.
    """

    name: str
    latencies: tuple[Latency, ...] = ()
    failure: str | None = None
    kernels: int = 0
    schedules: int = 0

    def __post_init__(self) -> None:
        if (not self.latencies) == (self.failure is None):
            raise ConfigError(f"{self.name}: a network that was timed has latencies or a failure")

    @property
    def latency_ms(self) -> float | None:
        """The median of the rounds' latencies in milliseconds, None where it failed."""
        if not self.latencies:
            return None
        return statistics.median(latency.latency_ms for latency in self.latencies)

    @property
    def round_spread(self) -> float | None:
        """How far the rounds' latencies lie apart, largest less smallest, as a part of their median.

        None where it failed. A latency's own spread is of one moment; this is what slow minutes made of it.
        """
        if not self.latencies:
            return None
        times_ms = [latency.latency_ms for latency in self.latencies]
        return (max(times_ms) - min(times_ms)) / statistics.median(times_ms)

    @property
    def emulated(self) -> bool:
        """Whether the times are an emulator's, which are no latencies."""
        return any(latency.emulated for latency in self.latencies)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, every latency with its samples."""
        return {
            "name": self.name,
            "latency_ms": self.latency_ms,
            "round_spread": self.round_spread,
            "emulated": self.emulated,
            "failure": self.failure,
            "kernels": self.kernels,
            "schedules": self.schedules,
            "latencies": [latency.to_dict() for latency in self.latencies],
        }


def compare_models(
    models: Sequence[ModelRef],
    options: ToolchainOptions,
    *,
    device: str,
    observer: Observer,
    rounds: int,
) -> list[ModelTiming]:
    """Tune what lacks records, compile every one of `models`, check it against torch, and time all in `rounds`.

    The records keep what was tuned: after an interruption the same call goes on where it was.

    Raises:
        DeviceError: if the device cannot be reached or is gone.
        RecordsError: if the records cannot be read or written.
    """
    from tvm_mnas.devices.core.profile import load_profile

    with open_scratch_toolchain(
        load_profile(device),
        options,
        on_warning=observer.note,
    ) as (toolchain, directory):
        return time_on_toolchain(
            toolchain, models, directory, seed=options.seed, observer=observer, rounds=rounds
        )


def time_on_toolchain(
    toolchain: Toolchain,
    models: Sequence[ModelRef],
    directory: Path,
    *,
    seed: int,
    observer: Observer,
    rounds: int,
) -> list[ModelTiming]:
    """Return what `compare_models` returns, on a toolchain that is open; `directory` takes the libraries."""
    entrants = [
        _prepare(model, toolchain, directory / f"{number}.so", seed, observer)
        for number, model in enumerate(models)
    ]
    compiled = [entrant.artifact for entrant in entrants if entrant.artifact is not None]
    found = iter(
        toolchain.measure_in_turn(
            compiled,
            rounds=rounds,
            on_progress=lambda done, total: observer.stage("measuring", done, total),
        )
    )
    return [
        entrant.failed() if entrant.artifact is None else entrant.timed(next(found))
        for entrant in entrants
    ]


@dataclass(frozen=True, slots=True)
class _Entrant:
    """One network ready to be timed, or why it is not; its module is not kept, which would hold the weights of all."""

    name: str
    artifact: CompiledArtifact | None
    failure: str | None = None

    def failed(self) -> ModelTiming:
        return ModelTiming(name=self.name, failure=self.failure)

    def timed(self, found: tuple[Latency, ...] | CandidateError) -> ModelTiming:
        assert self.artifact is not None
        failed = isinstance(found, CandidateError)
        return ModelTiming(
            name=self.name,
            latencies=() if isinstance(found, CandidateError) else found,
            failure=f"measuring: {found}" if failed else None,
            kernels=self.artifact.kernels,
            schedules=self.artifact.schedules,
        )


def _prepare(
    model: ModelRef, toolchain: Toolchain, path: Path, seed: int, observer: Observer
) -> _Entrant:
    """Tune, compile and check one network."""
    stage = "lowering"
    try:
        observer.stage(f"{model.name}: {stage}", 0, 1)
        loaded = model.load(seed=seed)
        lowered = loaded.lower(toolchain.profile)
        stage = "tuning"
        missing = len(toolchain.missing(lowered))
        toolchain.rehearse(lowered, loaded.judge, path.parent)
        observer.note(f"{model.name}: {len(lowered.kernels)} kernels, {missing} of them to tune")
        toolchain.tune(
            [lowered],
            on_progress=lambda done, total: observer.stage(f"{model.name}: tuning", done, total),
        )
        stage = "compiling"
        artifact = toolchain.compile(lowered, path)
        stage = "checking"
        toolchain.check_network(artifact, loaded.judge, seed=seed)
    except CandidateError as error:
        observer.note(f"{model.name} failed in {stage}: {error}")
        return _Entrant(model.name, None, failure=f"{stage}: {error}")
    return _Entrant(model.name, artifact)
