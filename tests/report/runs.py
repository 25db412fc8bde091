"""Trials as a search stores them, made without training or measuring anything."""

from __future__ import annotations

import random
from dataclasses import replace

from tvm_mnas.devices.core.latency import Coverage, Latency
from tvm_mnas.evaluation.agreement import Agreement
from tvm_mnas.evaluation.manifest import (
    ArtifactFacts,
    DataFacts,
    Manifest,
    Origin,
    TensorSpec,
)
from tvm_mnas.evaluation.ranking import AccuracyNoise
from tvm_mnas.evaluation.results import Effort, Evaluation, Failure
from tvm_mnas.search.reward import Reward
from tvm_mnas.search.run import TrialRecord
from tvm_mnas.space.architecture import Architecture
from tvm_mnas.space.candidate import Candidate
from tvm_mnas.space.files import load_space
from tvm_mnas.training.accuracy import Accuracy

REWARD = Reward.soft(0.06)


def make_latency(
    median_ms: float,
    *,
    emulated: bool = False,
    device_key: str = "local",
    spread: float = 0.02,
    tuned_share: float = 0.97,
    reference_change: float | None = None,
) -> Latency:
    """A latency of five samples around `median_ms` with an interquartile range of `spread` of it."""
    samples = tuple(median_ms * (1.0 + spread * step) for step in (-1.0, -0.5, 0.0, 0.5, 1.0))
    return Latency(
        samples_ms=samples,
        device_key=device_key,
        fingerprint="AMD EPYC, 2 cores, Linux 6.1",
        target='{"kind": "llvm", "mcpu": "znver3"}',
        tvm_version="0.27.0",
        measured_at="2025-01-02T03:04:05+00:00",
        emulated=emulated,
        max_spread=0.05,
        coverage=Coverage(kernels=12, tuned_kernels=12, schedules=96, tuned_share=tuned_share),
        reference_ms=None if reference_change is None else 0.2 * (1.0 + reference_change),
        reference_change=reference_change,
    )


def make_accuracy(top1: float) -> Accuracy:
    """An accuracy on 2,000 validation images."""
    return Accuracy(
        top1=top1,
        samples=2000,
        steps=120,
        train_loss=0.9,
        duration_s=4.0,
        seed=0,
        split="validation",
    )


def make_success(
    number: int,
    architecture: Architecture,
    top1: float,
    latency: Latency,
    *,
    repeats: int | None = None,
    effort: Effort | None = None,
) -> TrialRecord:
    """A trial whose candidate was trained and measured."""
    effort = effort or Effort(training_s=4.0, kernels=12)
    evaluation = Evaluation.success(architecture, make_accuracy(top1), latency, effort)
    return TrialRecord(number, evaluation, REWARD(top1, latency.latency_ms), repeats)


def make_failure(
    number: int,
    architecture: Architecture,
    stage: str = "training",
    reason: str = "the loss is NaN",
) -> TrialRecord:
    """A trial whose candidate failed."""
    failure = Failure(stage, "TrainingError", reason)
    effort = Effort(training_s=1.0)
    return TrialRecord(number, Evaluation.failed(architecture, failure, effort), None, None)


def sample_architectures(
    count: int, *, space: str = "quickstart", seed: int = 0
) -> list[Architecture]:
    """`count` different architectures of `space`."""
    rng = random.Random(seed)
    loaded = load_space(space)
    found: dict[str, Architecture] = {}
    while len(found) < count:
        architecture = loaded.decode(loaded.sample(rng))
        found.setdefault(architecture.id, architecture)
    return list(found.values())


def make_run(
    count: int,
    *,
    seed: int = 0,
    emulated: bool = False,
    device_key: str = "local",
    kernel_times: bool = False,
) -> list[TrialRecord]:
    """A run of `count` trials: mostly measured, every ninth failed, every seventh met before.

    With `kernel_times` a latency is 1.25 x its kernels + 0.01 ms, whatever they move; without, as in older runs, they
    have no times.
    """
    rng = random.Random(seed)
    architectures = sample_architectures(count, space="mnasnet", seed=seed)
    records: list[TrialRecord] = []
    for number, architecture in enumerate(architectures):
        firsts = [r for r in records if r.reward is not None and r.repeats is None]
        if number % 9 == 4:
            stage, reason = rng.choice(
                [("training", "the loss is NaN at step 40"), ("measuring", "no answer in 60 s")]
            )
            records.append(make_failure(number, architecture, stage, reason))
        elif number % 7 == 6 and firsts:
            first = rng.choice(firsts)
            records.append(TrialRecord(number, first.evaluation, first.reward, first.number))
        else:
            latency_ms = max(0.02, rng.gauss(0.07, 0.02))
            top1 = 0.9 - 0.15 / (1.0 + latency_ms / 0.05) - abs(rng.gauss(0.0, 0.02))
            tuned = max(0, round(12 * 0.85**number + rng.uniform(-1.0, 1.0)))
            effort = Effort(
                training_s=rng.uniform(3.0, 5.0),
                tuning_s=1.5 * tuned,
                compiling_s=1.2,
                measuring_s=0.8,
                kernels=12,
                kernels_tuned=min(12, tuned),
                schedules_measured=8 * min(12, tuned),
            )
            if kernel_times:
                kernels_us = 1e3 * (latency_ms - 0.01) / 1.25
                moved_bytes = 100_000 + 1_000 * (number**2 % 17)
                effort = replace(
                    effort, kernel_calls=20, kernels_us=kernels_us, moved_bytes=moved_bytes
                )
            latency = make_latency(
                latency_ms,
                emulated=emulated,
                device_key=device_key,
                spread=0.08 if number % 11 == 5 else rng.uniform(0.005, 0.04),
            )
            records.append(make_success(number, architecture, top1, latency, effort=effort))
    return records


def make_manifest(architecture: Candidate, latency: Latency, *, trial: int = 0) -> Manifest:
    """Return the manifest of an export of `architecture`."""
    accuracy = Accuracy(
        top1=0.8125,
        samples=2000,
        steps=120,
        train_loss=0.5,
        duration_s=4.25,
        seed=7,
        split="validation",
    )
    return Manifest(
        created="2025-01-02T03:04:05+00:00",
        origin=Origin(
            run="a-run",
            trial=trial,
            trials=12,
            search_reward=0.75,
            search_accuracy=accuracy,
            algorithm="ppo",
            seed=0,
            accuracy_noise=AccuracyNoise(noise=0.0, spread=0.0125, pairs=7, candidates=28),
        ),
        architecture=architecture.notation,
        architecture_id=architecture.id,
        parameters=123_456,
        mult_adds=4_200_000,
        input=TensorSpec(name="images", shape=(1, 3, 32, 32), dtype="float32"),
        output=TensorSpec(name="logits", shape=(1, 10), dtype="float32"),
        data=DataFacts(
            spec="embedded",
            mean=(0.25, 0.25, 0.25),
            std=(0.5, 0.5, 0.5),
            class_names=("cat", "dog"),
            grey=True,
        ),
        validation=accuracy,
        test=replace(accuracy, top1=0.8512, samples=4000, split="test"),
        latency=latency,
        agreement=Agreement(judge="torch 2.13.0", images=16, difference=3e-07),
        artifact=ArtifactFacts(
            file="net.so",
            size_bytes=155_208,
            kernels=12,
            schedules_measured=96,
            target='{"kind": "llvm", "mcpu": "znver3"}',
        ),
        versions={"tvm-mnas": "0.1.0", "torch": "2.13.0"},
    )
