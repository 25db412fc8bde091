"""Hands over one network: everything that is needed to ship it, and to know how its figures were obtained.

    net.so                 the compiled network: function `main`, images (1,C,H,W) float32 -> logits (1,classes) float32
    weights.safetensors    the trained weights, with the architecture in the header
    net.onnx               the same network for other tools
    architecture.json      its notation, its id and its resolved layers
    records/               the tuning records that net.so was compiled from
    kernels.json           what each kernel takes, tuned and as TVM builds it, and at least
    manifest.json          how accuracy and latency were measured, on what, with which versions

An export directory appears whole or not at all.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from tvm_mnas import __version__
from tvm_mnas.config import SearchConfig
from tvm_mnas.errors import RunError
from tvm_mnas.evaluation.agreement import torch_judge
from tvm_mnas.evaluation.kernel_times import KERNELS, measure_kernels, write_kernels
from tvm_mnas.evaluation.manifest import (
    MANIFEST,
    ArtifactFacts,
    DataFacts,
    Manifest,
    Origin,
    TensorSpec,
    write_manifest,
)
from tvm_mnas.evaluation.results import Observer
from tvm_mnas.evaluation.toolchain import Toolchain
from tvm_mnas.evaluation.trainers import load_splits, read_accuracy
from tvm_mnas.space.architecture import Architecture
from tvm_mnas.space.detector import DetectorArchitecture
from tvm_mnas.space.network_space import ChosenNetwork
from tvm_mnas.training.data.sources import class_names

if TYPE_CHECKING:
    from tvm_mnas.space.candidate import Candidate

CHECKED_IMAGES = 16
"""How many images of the test split the device and torch must agree on."""

_PACKAGES = ("apache-tvm", "apache-tvm-ffi", "torch", "onnx", "numpy")


def export_network(
    weights: Path,
    directory: Path,
    *,
    config: SearchConfig,
    toolchain: Toolchain,
    origin: Origin,
    observer: Observer,
) -> Manifest:
    """Compile, check, measure and write the network whose trained `weights` are given; return its manifest.

    `origin` goes into the manifest. The accuracy on the test split is computed here, for the first time, and
    nothing is chosen by it.

    Raises:
        RunError: if `directory` exists, or the weights cannot be read.
        CandidateError: if the network cannot be compiled or measured.
        DeviceError: if the device stays lost.
    """
    if directory.exists():
        raise RunError(
            f"an export makes a new directory, and {directory} exists; "
            f"remove it, or name another one with -o"
        )
    part = directory.with_name(directory.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        manifest = _write_files(weights, part, config, toolchain, origin, observer)
        os.replace(part, directory)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return manifest


def _write_files(
    weights: Path,
    directory: Path,
    config: SearchConfig,
    toolchain: Toolchain,
    origin: Origin,
    observer: Observer,
) -> Manifest:
    from tvm_mnas.models.candidates import candidate_cost
    from tvm_mnas.models.inference import export_onnx
    from tvm_mnas.training.accuracy import Accuracy
    from tvm_mnas.training.data.splits import to_input
    from tvm_mnas.training.tasks import task_of
    from tvm_mnas.training.weights import load_network, save_weights

    steps = iter(range(6))

    def step(name: str) -> None:
        observer.stage(name, next(steps), 6)

    step("export: compiling")
    architecture, network = load_network(weights)
    validation = read_accuracy(weights)
    save_weights(network, directory / "weights.safetensors", architecture)
    shape = architecture.image_shape
    lowered = toolchain.lower(network, shape)
    if toolchain.missing(lowered):
        toolchain.tune([lowered], on_progress=lambda done, total: None)
    artifact = toolchain.compile(lowered, directory / "net.so")
    toolchain.store.subset(lowered.kernels, directory / "records")
    step("export: ONNX")
    export_onnx(network, shape, directory / "net.onnx")
    step("export: checking")
    splits = load_splits(config.data, architecture.input_size, config.seed, config.max_bad_images)
    batch, _ = next(iter(splits.test.eval_batches(batch_size=CHECKED_IMAGES)))
    images = to_input(batch, splits.normalization).contiguous().numpy()
    agreement = toolchain.check(artifact, torch_judge(network, batch_size=1), images)
    step("export: testing")
    score = task_of(architecture).evaluate(network, splits.test, splits.normalization)
    test = Accuracy(
        top1=score.value,
        samples=score.samples,
        steps=validation.steps,
        train_loss=validation.train_loss,
        duration_s=validation.duration_s,
        seed=validation.seed,
        split="test",
        metric=score.metric,
    )
    step("export: measuring")
    latency = toolchain.measure(artifact)
    if not toolchain.profile.emulated:
        step("export: kernels as TVM builds them")
        write_kernels(directory / KERNELS, measure_kernels(toolchain, lowered))
    cost = candidate_cost(architecture, network)
    manifest = Manifest(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        origin=origin,
        architecture=architecture.notation,
        architecture_id=architecture.id,
        parameters=cost.parameters,
        mult_adds=cost.mult_adds,
        input=TensorSpec(name="images", shape=tuple(shape), dtype="float32"),
        output=_output_of(architecture, network),
        data=DataFacts(
            spec=config.data,
            mean=tuple(splits.normalization.mean),
            std=tuple(splits.normalization.std),
            class_names=tuple(class_names(config.data)),
            grey=config.data.partition(":")[0] in ("embedded", "idx"),
        ),
        validation=validation,
        test=test,
        latency=latency,
        agreement=agreement,
        artifact=ArtifactFacts(
            file="net.so",
            size_bytes=artifact.size_bytes,
            kernels=artifact.kernels,
            schedules_measured=artifact.schedules,
            target=toolchain.profile.target,
            dtype=artifact.precision.dtype,
            accumulator=artifact.precision.accumulator,
        ),
        versions={
            "tvm-mnas": __version__,
            "python": platform.python_version(),
            **{package: version(package) for package in _PACKAGES},
            "xgboost": _xgboost_version(),
        },
    )
    description = json.dumps(_describe(architecture), indent=2)
    (directory / "architecture.json").write_text(f"{description}\n", encoding="utf-8")
    write_manifest(directory / MANIFEST, manifest)
    return manifest


def _output_of(candidate: Candidate, network: object) -> TensorSpec:
    from tvm_mnas.models.detection.detector import Detector
    from tvm_mnas.models.detection.suppression import ROW

    if isinstance(network, Detector):
        return TensorSpec(name="detections", shape=(1, network.rule.total, ROW), dtype="float32")
    return TensorSpec(name="logits", shape=(1, candidate.classes), dtype="float32")


def _xgboost_version() -> str:
    """Return the version of the cost model's library, which two distributions provide."""
    try:
        return version("xgboost-cpu")
    except PackageNotFoundError:
        return version("xgboost")


def _describe(candidate: Candidate) -> dict[str, object]:
    if isinstance(candidate, DetectorArchitecture):
        return {
            "notation": candidate.notation,
            "id": candidate.id,
            "backbone": _describe(candidate.backbone),
            "classes": candidate.classes,
        }
    if not isinstance(candidate, Architecture):
        return {
            "notation": candidate.notation,
            "id": candidate.id,
            "choices": dict(candidate.choices) if isinstance(candidate, ChosenNetwork) else {},
            "classes": candidate.classes,
        }
    architecture = candidate
    return {
        "notation": architecture.notation,
        "id": architecture.id,
        "stem_channels": architecture.stem_channels,
        "layers": [asdict(layer) for layer in architecture.layers],
        "head_filters": architecture.head_filters,
        "classes": architecture.classes,
    }
