"""Compiler and device together: what it takes to get from a torch network to its measured latency.

The rooms below do not know each other; this is where a kernel's tuning meets the device that times it. The
search, the export and `tvm-mnas bench` all go through one :class:`Toolchain`, so that each latency is obtained
in the same way: every kernel tuned, the outputs compared with torch's, then timed with nothing else running. Untuned
kernels are let in by choice alone, up to a part of the run time that the latency then tells.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tvm_mnas.config import check_untuned_share
from tvm_mnas.devices.core.cores import CorePlan, available_cores, plan_cores, usable_processes
from tvm_mnas.errors import DeviceError, MeasurementError
from tvm_mnas.evaluation.agreement import (
    Agreement,
    Array,
    Judge,
    check_images,
    compare,
)
from tvm_mnas.evaluation.untuned import measure_untuned

if TYPE_CHECKING:
    from torch import nn

    from tvm_mnas.compiler.build.artifact import CompiledArtifact
    from tvm_mnas.compiler.core.kernel import Kernel, LoweredNetwork
    from tvm_mnas.compiler.core.linking import Linker
    from tvm_mnas.compiler.records.base import TuningRecords
    from tvm_mnas.compiler.tuning.build_workers import WarmBuilder
    from tvm_mnas.compiler.tuning.tuner import TuningReport
    from tvm_mnas.devices.core.latency import Latency
    from tvm_mnas.devices.core.profile import DeviceProfile
    from tvm_mnas.devices.farm.farm import Farm
    from tvm_mnas.devices.farm.reference import Reference

DEVICE_ATTEMPTS = 3
"""How often work is given to the device again after the device, not the work, failed."""

MOST_PER_ROUND = 16
"""Schedules of a kernel between two looks at where more are worth it; half of what a kernel gets if that is less."""

_Result = TypeVar("_Result")
Shape = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolchainOptions:
    """Where tuning records are kept, how much is spent on a kernel without one, and what is let in untuned.

    `records` is the directory under which each profile and target has its store, above the one that ships if
    `with_shipped`. A kernel without records gets `schedules_per_kernel` schedules, drawn from `seed`.
    `max_untuned_share` (0..1) of a network's run time may be in kernels without a record; 0 refuses any.

    Raises:
        ConfigError: if `max_untuned_share` is no such share.
    """

    records: Path
    schedules_per_kernel: int
    seed: int
    max_untuned_share: float = 0.0
    with_shipped: bool = True

    def __post_init__(self) -> None:
        check_untuned_share(self.max_untuned_share)


@dataclass(frozen=True)
class Toolchain:
    """A farm, a builder and a store of records for one device profile. Made by `open_toolchain`."""

    profile: DeviceProfile
    farm: Farm
    store: TuningRecords
    builder: WarmBuilder
    options: ToolchainOptions
    objects: Path
    """Where compiled kernels are kept."""
    _untuned_us: dict[str, float | None] = field(default_factory=dict, repr=False, compare=False)

    @property
    def overlap(self) -> bool:
        """Whether kernels can be built while others are measured: not where they would share a core, or its quota."""
        return _core_plan(self.profile).overlap

    def lower(
        self, network: nn.Module, shape: Shape, *, input_dtype: str = "float32"
    ) -> LoweredNetwork:
        """Return `network` lowered to the device's kernels; `shape` is its input's (N,C,H,W).

        Raises:
            LoweringError: if TVM cannot express it.
        """
        from tvm_mnas.compiler.lowering.lower import lower_network

        return lower_network(
            network,
            shape,
            self.profile.target,
            input_dtype=input_dtype,
            precision=self.profile.precision,
        )

    def missing(self, lowered: LoweredNetwork) -> list[Kernel]:
        """Return the kernels of `lowered` on which less than the budget was spent."""
        return self.store.missing(
            lowered.kernels, schedules_per_kernel=self.options.schedules_per_kernel
        )

    def tune(
        self,
        networks: Sequence[LoweredNetwork],
        *,
        on_progress: Callable[[int, int], None],
        by_importance: bool = True,
    ) -> TuningReport:
        """Tune the kernels of `networks` that the records lack, each once.

        Each gets schedules by its importance to these networks, or as many as any other.
        `on_progress` gets the schedules measured and those planned. A kernel that cannot be tuned has no
        record afterwards, and `compile` says so.

        Raises:
            DeviceError: if the device stays lost.
        """
        from tvm_mnas.compiler.core.kernel import distinct_kernels
        from tvm_mnas.compiler.tuning.tuner import TuningBudget, tune_kernels
        from tvm_mnas.devices.farm.runner import KernelRunner

        return tune_kernels(
            distinct_kernels(networks),
            self.store,
            target=self.profile.target,
            builder=self.builder,
            runner=KernelRunner(self.farm, overlap=self.overlap),
            budget=TuningBudget(
                schedules_per_kernel=self.options.schedules_per_kernel,
                schedules_per_round=min(MOST_PER_ROUND, -(-self.options.schedules_per_kernel // 2)),
                by_importance=by_importance,
            ),
            seed=self.options.seed,
            on_progress=on_progress,
        )

    def kernels_us(self, lowered: LoweredNetwork) -> float | None:
        """Return what the calls of all kernels of `lowered` take by the records, None if one has no record.

        A sum of kernels timed one by one, in microseconds: what forecasts are made of, and no latency.
        """
        times_us = [(kernel.calls, self.store.best_us(kernel.key)) for kernel in lowered.kernels]
        if any(best_us is None for _, best_us in times_us):
            return None
        return sum(calls * best_us for calls, best_us in times_us if best_us is not None)

    def rehearse(self, lowered: LoweredNetwork, judge: Judge, directory: Path) -> None:
        """Find out what is wrong with a network from elsewhere before its kernels are tuned, which takes minutes.

        It is compiled and, unless it is large, run and judged on this machine; nothing is done where all is tuned.

        Raises:
            LoweringError: if the judge cannot run it.
            BuildError: if it does not compile or link.
            MeasurementError: if its outputs are wrong.
            DeviceError: if the device stays lost.
        """
        from tvm_mnas.compiler.build.artifact import MOST_RUN_UNTUNED_FLOPS, compile_rehearsal

        if not self.missing(lowered):
            return
        artifact = compile_rehearsal(lowered, self.store, directory / "rehearsal.so")
        try:
            # Without schedules it may take minutes on a slow device.
            here = self.profile.is_local and not self.profile.emulated
            if here and lowered.flops <= MOST_RUN_UNTUNED_FLOPS:
                self.check_network(artifact, judge, seed=self.options.seed)
        finally:
            artifact.path.unlink(missing_ok=True)

    def compile(self, lowered: LoweredNetwork, path: Path) -> CompiledArtifact:
        """Compile `lowered` from its kernels' records into the shared library `path`.

        A kernel without a record is timed on the device as TVM builds it by itself, if such kernels are let in.

        Raises:
            UntunedKernelError: if more than `max_untuned_share` of the run time is in kernels without a record.
            BuildError: if it does not compile or link.
            DeviceError: if the device stays lost, and a kernel was to be timed.
        """
        from tvm_mnas.compiler.build.artifact import compile_network

        return compile_network(
            lowered,
            self.store,
            path,
            objects=self.objects,
            untuned_us=self.untuned_us(lowered) if self.options.max_untuned_share else {},
            max_untuned_share=self.options.max_untuned_share,
        )

    def untuned_us(self, lowered: LoweredNetwork) -> dict[str, float]:
        """Return what the kernels of `lowered` without a record take on the device, in microseconds by key.

        Each is timed as TVM builds it by itself, once for all networks; one that does not build or run is left out.

        Raises:
            DeviceError: if the device stays lost.
        """
        from tvm_mnas.compiler.build.coverage import untuned_kernels

        times_us: dict[str, float] = {}
        for kernel in untuned_kernels(lowered.kernels, self.store):
            time_us = self.time_untuned(kernel)
            if time_us is not None:
                times_us[kernel.key] = time_us
        return times_us

    def time_untuned(self, kernel: Kernel) -> float | None:
        """Return what `kernel` takes as TVM builds it by itself, in microseconds; timed once. None if it does not run.

        Raises:
            DeviceError: if the device stays lost.
        """
        if kernel.key not in self._untuned_us:
            with tempfile.TemporaryDirectory(prefix="tvm-mnas-untuned-") as directory:
                self._untuned_us[kernel.key] = _retried(
                    lambda: measure_untuned(
                        kernel, Path(directory), profile=self.profile, farm=self.farm
                    )
                )
        return self._untuned_us[kernel.key]

    def measure(self, artifact: CompiledArtifact) -> Latency:
        """Return the latency of a compiled network on the device.

        Raises:
            MeasurementError: if the times make no sense.
            DeviceError: if the device stays lost.
        """
        (found,) = self.measure_in_turn([artifact], rounds=1)
        if isinstance(found, MeasurementError):
            raise found
        return found[0]

    def measure_in_turn(
        self,
        artifacts: Sequence[CompiledArtifact],
        *,
        rounds: int,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> list[tuple[Latency, ...] | MeasurementError]:
        """Return each network's latencies, one of each round, or why it has none; in one session on one device.

        Raises:
            DeviceError: if the device stays lost.
        """
        from tvm_mnas.devices.core.latency import Coverage
        from tvm_mnas.devices.farm.timing import NetworkFile, measure_in_turn

        networks = [
            NetworkFile(
                path=artifact.path,
                input_shape=artifact.input_shape,
                dtype=artifact.input_dtype,
                coverage=Coverage(
                    kernels=artifact.kernels,
                    tuned_kernels=artifact.tuned_kernels,
                    schedules=artifact.schedules,
                    tuned_share=artifact.tuned_share,
                ),
                precision=artifact.precision,
            )
            for artifact in artifacts
        ]
        return _retried(
            lambda: measure_in_turn(networks, self.farm, rounds=rounds, on_progress=on_progress)
        )

    def check(self, artifact: CompiledArtifact, judge: Judge, images: Array) -> Agreement:
        """Return how far the device's outputs for `images` (K and the other axes of the input) are from the judge's.

        Raises:
            LoweringError: if the judge cannot run the network.
            MeasurementError: if they are too far from it: fast and wrong is no result; or cannot be compared.
            DeviceError: if the device stays lost.
        """
        from tvm_mnas.devices.farm.timing import run_network

        expected = judge.outputs(images)
        found = _retried(
            lambda: run_network(
                artifact.path, images, self.farm, batch_size=artifact.input_shape[0]
            )
        )
        return compare(found, expected, judge=judge, precision=artifact.precision)

    def check_network(self, artifact: CompiledArtifact, judge: Judge, *, seed: int) -> Agreement:
        """Return how far the device's outputs for random images are from the judge's. Raises what `check` raises."""
        images = check_images(artifact.input_shape, artifact.input_dtype, seed=seed)
        return self.check(artifact, judge, images)


@contextlib.contextmanager
def open_toolchain(
    profile: DeviceProfile,
    options: ToolchainOptions,
    *,
    logs: Path,
    scratch: Path,
    on_warning: Callable[[str], None] = lambda text: None,
) -> Iterator[Toolchain]:
    """Yield a toolchain for `profile`; its processes end with the context.

    `scratch` is for files that nobody needs afterwards. `on_warning` gets a line where a device is left alone because
    it is far slower than others of its profile, or where it changed between measurements.

    Raises:
        RecordsError: if the records there are unreadable or of another target.
        BuildError: if the reference kernel does not build for the device.
        DeviceError: if the device cannot be reached.
    """
    from tvm_mnas.compiler.core.linking import find_linker
    from tvm_mnas.compiler.records.layered import open_records, shipped_directory, store_name
    from tvm_mnas.compiler.tuning.build_workers import WarmBuilder
    from tvm_mnas.devices.farm.farm import open_farm

    store = open_records(
        options.records,
        profile_key=profile.key,
        target=profile.target,
        shipped=shipped_directory() if options.with_shipped else None,
    )
    linker = find_linker(profile.target)
    plan = _core_plan(profile)
    reference = None if profile.emulated else _reference(profile.target, linker, scratch)
    with (
        # First, so that it loads the compiler while the devices are found.
        WarmBuilder(
            cores=plan.building,
            borrowed=plan.borrowed,
            linker=linker,
            log=logs / "builders.log",
            scratch=scratch,
        ) as builder,
        open_farm(profile, work_directory=logs, reference=reference, on_warning=on_warning) as farm,
    ):
        objects = options.records / store_name(profile.key, profile.target) / "objects"
        yield Toolchain(profile, farm, store, builder, options, objects)


@contextlib.contextmanager
def open_scratch_toolchain(
    profile: DeviceProfile,
    options: ToolchainOptions,
    *,
    on_warning: Callable[[str], None] = lambda text: None,
) -> Iterator[tuple[Toolchain, Path]]:
    """Yield what `open_toolchain` does, and a directory that is gone afterwards, with the logs in it.

    Raises what `open_toolchain` raises.
    """
    with (
        tempfile.TemporaryDirectory(prefix="tvm-mnas-") as name,
        open_toolchain(
            profile, options, logs=Path(name), scratch=Path(name), on_warning=on_warning
        ) as toolchain,
    ):
        yield toolchain, Path(name)


def _reference(target: str, linker: Linker, scratch: Path) -> Reference:
    from tvm_mnas.compiler.build.probes import build_reference
    from tvm_mnas.devices.farm.reference import Reference

    path = scratch / "reference.so"
    return Reference(path=path, arguments=build_reference(target, path, linker=linker))


def _core_plan(profile: DeviceProfile) -> CorePlan:
    measuring = profile.core if profile.is_local else None
    return plan_cores(available_cores(), most=usable_processes(), measuring=measuring)


def _retried(work: Callable[[], _Result]) -> _Result:
    for _ in range(DEVICE_ATTEMPTS - 1):
        try:
            return work()
        except DeviceError as error:
            if not error.retried:
                raise
    return work()
