"""One network's latency and where it goes: what `tvm-mnas bench` shows."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tvm_mnas.errors import ConfigError
from tvm_mnas.search.evaluation import Observer
from tvm_mnas.search.workbench import Workbench, open_workbench
from tvm_mnas.space.architecture import Architecture

if TYPE_CHECKING:
    from tvm_mnas.compiler.lowering import LoweredNetwork
    from tvm_mnas.devices.latency import Latency
    from tvm_mnas.models.network import Network

CHECKED_IMAGES = 2


@dataclass(frozen=True, slots=True)
class BenchResult:
    """An end-to-end latency, and a row per kernel with the time that its record promises.

    `difference` is how far the outputs are from torch's, None for an ONNX file, which has no torch network.
    """

    model: str
    latency: Latency
    kernels: list[dict[str, Any]]
    difference: float | None

    @property
    def line(self) -> str:
        """The result in a line."""
        latency = self.latency
        total_ms = sum(row["best_us"] * row["times"] for row in self.kernels) / 1e3
        noisy = f", above the profile's {latency.max_spread:.0%}" if latency.noisy else ""
        text = (
            f"{latency.latency_ms:.4g} ms end to end on {latency.device_key} "
            f"(median of {len(latency.samples_ms)}, spread {latency.spread:.1%}{noisy}); "
            f"its kernels alone {total_ms:.4g} ms by their records"
        )
        return f"{text}; EMULATED, not a latency" if latency.emulated else text

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "model": self.model,
            "latency": self.latency.to_dict(),
            "kernels": self.kernels,
            "largest_relative_difference": self.difference,
        }


def bench_model(
    model: str,
    *,
    device: str,
    records: Path,
    trials_per_kernel: int,
    seed: int,
    observer: Observer,
) -> BenchResult:
    """Tune what lacks records, compile `model`, check it against torch and time it.

    `model` is a notation, an .onnx file, or RUN:TRIAL.

    Raises:
        ConfigError: if there is no such model.
        CandidateError: if it cannot be lowered, compiled or measured.
        DeviceError: if the device cannot be reached.
    """
    from tvm_mnas.devices.profile import load_profile

    onnx_file = _onnx_file(model)
    architecture = None if onnx_file is not None else _architecture(model)
    profile = load_profile(device)
    with (
        tempfile.TemporaryDirectory(prefix="tvm-mnas-bench-") as directory,
        open_workbench(
            profile,
            records=records,
            logs=Path(directory),
            scratch=Path(directory),
            trials_per_kernel=trials_per_kernel,
            seed=seed,
        ) as workbench,
    ):
        observer.stage("lowering", 0, 1)
        network: Network | None = None
        if onnx_file is not None:
            lowered = _lower_onnx(onnx_file, profile.target)
        else:
            assert architecture is not None
            network, lowered = _lower(architecture, workbench, seed)
        workbench.tune(
            [lowered], on_progress=lambda done, total: observer.stage("tuning", done, total)
        )
        observer.stage("compiling", 0, 1)
        artifact = workbench.compile(lowered, Path(directory) / "net.so")
        observer.stage("measuring", 0, 1)
        difference = None
        if network is not None:
            from tvm_mnas.models.inference import predict

            images = np.random.default_rng(seed).standard_normal(
                (CHECKED_IMAGES, *lowered.input_shape[1:]), dtype=np.float32
            )
            difference = workbench.check(artifact, images, predict(network, images))
        latency = workbench.measure(artifact, lowered.input_shape)
        return BenchResult(model, latency, _kernel_rows(lowered, workbench), difference)


def _onnx_file(model: str) -> Path | None:
    path = Path(model)
    if path.suffix != ".onnx":
        return None
    if not path.is_file():
        raise ConfigError(f"{model}: an ONNX model is a file that is there; check the path")
    return path


def _architecture(model: str) -> Architecture:
    run, colon, trial = model.rpartition(":")
    if colon and trial.isdecimal() and Path(run).is_dir():
        from tvm_mnas.search.run import RunDirectory

        for record in RunDirectory.open(Path(run)).finished_trials():
            if record.number == int(trial):
                return record.evaluation.architecture
        raise ConfigError(
            f"{run} has no finished trial {trial}; `tvm-mnas report {run}` lists them"
        )
    return Architecture.parse(model)


def _lower(
    architecture: Architecture, workbench: Workbench, seed: int
) -> tuple[Network, LoweredNetwork]:
    from tvm_mnas.models.network import build_network
    from tvm_mnas.search.pipeline import input_shape

    network = build_network(architecture, seed=seed)
    return network, workbench.lower(network, input_shape(architecture))


def _lower_onnx(path: Path, target: str) -> LoweredNetwork:
    from tvm_mnas.compiler.lowering import lower_onnx

    return lower_onnx(path, target)


def _kernel_rows(lowered: LoweredNetwork, workbench: Workbench) -> list[dict[str, Any]]:
    """Return a row per kernel, the costliest first; times are those of the best records."""
    rows: list[dict[str, Any]] = []
    for kernel in lowered.kernels:
        best_us = workbench.store.best_us(kernel.key)
        assert best_us is not None, "compile_network refuses a network with an untuned kernel"
        rows.append(
            {
                "kernel": kernel.name,
                "key": kernel.key,
                "times": kernel.calls,
                "best_us": best_us,
                "gflops": kernel.flops / best_us / 1e3,
                "trials": workbench.store.trials(kernel.key),
            }
        )
    total = sum(row["best_us"] * row["times"] for row in rows)
    for row in rows:
        row["share_percent"] = 100 * row["best_us"] * row["times"] / total
    return _costliest_first(rows)


def _costliest_first(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: -float(row["share_percent"]))
