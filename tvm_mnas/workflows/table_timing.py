"""The latencies of a table: every network compiled from records and as TVM builds it by itself, both timed in passes.

A pass goes over all networks in an order of its own, some of them in one session, tuned and untuned in turn. So what a
slow minute does to a network in one pass it hardly does in the next, and the difference of both is the noise.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tvm_mnas.devices.core.latency import Latency
from tvm_mnas.devices.core.profile import load_profile
from tvm_mnas.errors import ConfigError, MeasurementError, RunError
from tvm_mnas.evaluation.agreement import torch_judge
from tvm_mnas.evaluation.results import Observer
from tvm_mnas.evaluation.tables.files import (
    KERNELS,
    LATENCIES,
    NETWORKS,
    append_lines,
    device_of,
    latency_line,
    read_lines,
    write_lines,
)
from tvm_mnas.evaluation.tables.manifest import TableDevice
from tvm_mnas.evaluation.tables.table import KINDS, PASSES, KernelTime, LatencyKind
from tvm_mnas.evaluation.toolchain import Toolchain, ToolchainOptions, open_scratch_toolchain
from tvm_mnas.evaluation.untuned import compile_untuned
from tvm_mnas.files import atomic_write_text
from tvm_mnas.space.architecture import Architecture

if TYPE_CHECKING:
    from tvm_mnas.compiler.build.artifact import CompiledArtifact
    from tvm_mnas.compiler.core.kernel import LoweredNetwork

DEVICE = "device.json"
"""In a table that is not finished: what all its latencies have in common, and the CPU."""
_IN_TURN = 12
"""Networks that are timed in one session."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimingPlan:
    """The device of a table, its tuning records, and how many schedules a kernel without one gets."""

    device: str
    records: Path
    schedules_per_kernel: int
    seed: int


def time_networks(
    directory: Path, architectures: Sequence[Architecture], plan: TimingPlan, *, observer: Observer
) -> None:
    """Write to the table in `directory` the kernels of `architectures` and every latency that it lacks.

    Raises:
        ConfigError: if the device is an emulator, whose times are no latencies.
        RunError: if the table's other latencies are another device's.
        CandidateError: if a network cannot be compiled or timed.
        DeviceError: if the device stays lost; what was finished is kept.
    """
    due = _due(directory, architectures)
    if not any(due) and (directory / NETWORKS).is_file() and (directory / KERNELS).is_file():
        return
    profile = load_profile(plan.device)
    if profile.emulated:
        raise ConfigError(
            f"a table's latencies are a device's, and {plan.device} is an emulator; name a device (--device)"
        )
    options = ToolchainOptions(
        records=plan.records, schedules_per_kernel=plan.schedules_per_kernel, seed=plan.seed
    )
    with open_scratch_toolchain(profile, options, on_warning=observer.note) as (toolchain, scratch):
        lowered = _lower(toolchain, architectures, seed=plan.seed, observer=observer)
        toolchain.tune(
            list(lowered.values()),
            on_progress=lambda done, total: observer.stage("tuning", done, total),
            by_importance=False,
        )
        _write_kernels(directory, toolchain, lowered, observer=observer)
        cpu = toolchain.farm.fingerprint().to_dict().get("cpu", "unknown")
        networks = _Networks(toolchain, lowered, scratch, plan.seed, cpu)
        total = sum(len(turn) for turn in due)
        done = 0
        for turn, missing in enumerate(due):
            for at in range(0, len(missing), _IN_TURN):
                part = missing[at : at + _IN_TURN]
                observer.stage("latencies", done, total)
                _time(directory, networks, part, turn)
                done += len(part)
        observer.stage("latencies", done, total)


def read_device(directory: Path) -> tuple[TableDevice, str]:
    """Return the device of the latencies in `directory` and its CPU's name.

    Raises:
        RunError: if that is not known.
    """
    file = directory / DEVICE
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        return TableDevice(**values["device"]), str(values["cpu"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"{file} cannot be read: {error}; delete it and {LATENCIES}, and build again"
        ) from error


def _due(directory: Path, architectures: Sequence[Architecture]) -> list[list[Architecture]]:
    """Return for each pass who lacks a latency, in the order of that pass."""
    known = {
        (line["architecture"], line["kind"], line["pass"])
        for line in read_lines(directory / LATENCIES)
    }
    passes: list[list[Architecture]] = []
    for turn in range(PASSES):
        order = list(architectures)
        random.Random(turn).shuffle(order)
        passes.append(
            [one for one in order if any((one.notation, kind, turn) not in known for kind in KINDS)]
        )
    return passes


def _lower(
    toolchain: Toolchain, architectures: Sequence[Architecture], *, seed: int, observer: Observer
) -> dict[str, LoweredNetwork]:
    from tvm_mnas.models.candidates import build_candidate

    lowered: dict[str, LoweredNetwork] = {}
    for done, architecture in enumerate(architectures):
        observer.stage("lowering", done, len(architectures))
        network = build_candidate(architecture, seed=seed).eval()
        lowered[architecture.notation] = toolchain.lower(network, architecture.image_shape)
    observer.stage("lowering", len(architectures), len(architectures))
    return lowered


def _write_kernels(
    directory: Path,
    toolchain: Toolchain,
    lowered: dict[str, LoweredNetwork],
    *,
    observer: Observer,
) -> None:
    from tvm_mnas.compiler.core.kernel import distinct_kernels

    kernels = distinct_kernels(list(lowered.values()))
    times: list[KernelTime] = []
    for done, kernel in enumerate(kernels):
        observer.stage("kernels as TVM builds them", done, len(kernels))
        tuned_us = toolchain.store.best_us(kernel.key)
        if tuned_us is None:
            raise MeasurementError(
                f"no schedule of the kernel {kernel.name} ran on the device: a table has no holes; tune it longer "
                f"with --schedules-per-kernel"
            )
        times.append(
            KernelTime(
                key=kernel.key,
                name=kernel.name,
                flops=kernel.flops,
                moved_bytes=kernel.moved_bytes,
                tuned_us=tuned_us,
                untuned_us=toolchain.time_untuned(kernel),
            )
        )
    write_lines(directory / KERNELS, [asdict(one) for one in times])
    write_lines(
        directory / NETWORKS,
        [
            {
                "architecture": notation,
                "calls": {kernel.key: kernel.calls for kernel in network.kernels},
            }
            for notation, network in lowered.items()
        ],
    )


@dataclass(frozen=True)
class _Networks:
    """The networks of a table and where their compiled libraries are kept while they are timed."""

    toolchain: Toolchain
    lowered: dict[str, LoweredNetwork]
    scratch: Path
    seed: int
    cpu: str

    def compile(self, architecture: Architecture, kind: LatencyKind) -> CompiledArtifact:
        """Return the compiled network; one from records is checked against torch."""
        from tvm_mnas.models.candidates import build_candidate

        lowered = self.lowered[architecture.notation]
        path = self.scratch / f"{architecture.id}-{kind}.so"
        if kind == "untuned":
            return compile_untuned(lowered, path, objects=self.scratch / "untuned-objects")
        artifact = self.toolchain.compile(lowered, path)
        network = build_candidate(architecture, seed=self.seed).eval()
        judge = torch_judge(network, batch_size=architecture.image_shape[0])
        self.toolchain.check_network(artifact, judge, seed=self.seed)
        return artifact


def _time(
    directory: Path, networks: _Networks, architectures: Sequence[Architecture], turn: int
) -> None:
    entrants: list[tuple[Architecture, LatencyKind]] = [
        (architecture, kind) for architecture in architectures for kind in KINDS
    ]
    artifacts = [networks.compile(architecture, kind) for architecture, kind in entrants]
    try:
        found = networks.toolchain.measure_in_turn(artifacts, rounds=1)
    finally:
        for artifact in artifacts:
            artifact.path.unlink(missing_ok=True)
    lines = []
    for (architecture, kind), latencies in zip(entrants, found, strict=True):
        if isinstance(latencies, MeasurementError):
            raise latencies
        (latency,) = latencies
        keep_device(directory, latency, cpu=networks.cpu)
        lines.append(latency_line(architecture.notation, kind, turn, latency))
    append_lines(directory / LATENCIES, lines)


def keep_device(directory: Path, latency: Latency, *, cpu: str) -> None:
    """Keep what all latencies of the table in `directory` have in common, on a device whose processor is `cpu`.

    Raises:
        RunError: if those that it has are another device's.
    """
    device = device_of(latency)
    file = directory / DEVICE
    if not file.is_file():
        atomic_write_text(file, json.dumps({"device": asdict(device), "cpu": cpu}, indent=1) + "\n")
        return
    stored, _ = read_device(directory)
    if stored != device:
        raise RunError(
            f"a table's latencies are of one device in one state, and {directory} has those of {stored.device_key} "
            f"({stored.fingerprint}), not of {device.device_key} ({device.fingerprint}); delete {LATENCIES}, {DEVICE} "
            f"there to time all of them here"
        )
