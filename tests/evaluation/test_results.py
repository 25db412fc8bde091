"""Evaluations: no illegal state, no change between memory and file, no failure with a number."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from tests.report.runs import make_accuracy, make_latency, sample_architectures
from tvm_mnas.devices.core.latency import Coverage, Latency
from tvm_mnas.errors import TrainingError, TvmMnasError
from tvm_mnas.evaluation.results import STAGES, Effort, Evaluation, Failure
from tvm_mnas.space.architecture import Architecture
from tvm_mnas.training.accuracy import Accuracy

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "evaluation.json"
FIRST_FORMAT = GOLDEN.with_name("evaluation-format-1.json")
"""What runs on people's disks look like: must be read for ever, and written like this."""

NOTATION = (
    "i32_c3_w1:stem16_s22:r1_k3_s11_e1_i16_o16:r2_k5_s22_e3_i16_o24:r2_k3_s11_e6_i24_o40_noskip"
    ":head256:n10"
)
ARCHITECTURE = Architecture.parse(NOTATION)
ACCURACY = Accuracy(0.8125, 2000, 120, 0.5, 4.25, 7, "validation")
LATENCY = Latency(
    samples_ms=(0.0625, 0.078125, 0.046875),
    device_key="local",
    fingerprint="0123456789ab",
    target='{"kind": "llvm", "num-cores": 1}',
    tvm_version="0.27.0",
    measured_at="2025-01-02T03:04:05+00:00",
    emulated=False,
    max_spread=0.5,
    coverage=Coverage(kernels=12, tuned_kernels=11, schedules=96, tuned_share=0.97),
)
EFFORT = Effort(
    training_s=4.25,
    tuning_s=9.5,
    compiling_s=1.5,
    measuring_s=0.75,
    kernels=12,
    kernels_tuned=3,
    schedules_measured=24,
)
FAILURE = Failure("training", "TrainingError", "the loss is NaN at step 3")

EVALUATIONS = {
    "success": Evaluation.success(ARCHITECTURE, ACCURACY, LATENCY, EFFORT),
    "success that knows its kernels' times": Evaluation.success(
        ARCHITECTURE,
        ACCURACY,
        LATENCY,
        dataclasses.replace(EFFORT, kernel_calls=17, kernels_us=58.5, moved_bytes=4096),
    ),
    "failure": Evaluation.failed(ARCHITECTURE, FAILURE, Effort(training_s=0.5)),
    "late failure": Evaluation.failed(
        ARCHITECTURE,
        Failure("measuring", "MeasurementError", "the outputs differ"),
        EFFORT,
        ACCURACY,
    ),
}


@pytest.mark.parametrize("name", EVALUATIONS)
def test_what_is_stored_is_what_it_was_and_will_be(name: str) -> None:
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert json.loads(json.dumps(EVALUATIONS[name].to_json(), allow_nan=False)) == golden[name]
    assert Evaluation.from_json(golden[name]) == EVALUATIONS[name]
    first_format = json.loads(FIRST_FORMAT.read_text(encoding="utf-8"))
    assert Evaluation.from_json(first_format[name]) == EVALUATIONS[name]


def test_any_architecture_comes_back() -> None:
    for architecture in sample_architectures(20, space="mnasnet", seed=3):
        evaluation = Evaluation.success(
            architecture, make_accuracy(0.7), make_latency(80.0), EFFORT
        )
        again = Evaluation.from_json(json.loads(json.dumps(evaluation.to_json())))
        assert again == evaluation
        assert again.architecture.id == architecture.id


def test_objectives_are_accuracy_and_latency_or_nothing() -> None:
    assert EVALUATIONS["success"].objectives == (0.8125, 0.0625)
    assert EVALUATIONS["failure"].objectives is None
    assert EVALUATIONS["late failure"].objectives is None, "an accuracy alone is no result"
    assert EVALUATIONS["late failure"].accuracy == ACCURACY


@pytest.mark.parametrize(
    ("accuracy", "latency", "failure"),
    [
        (None, None, None),
        (ACCURACY, None, None),
        (None, LATENCY, None),
        (ACCURACY, LATENCY, FAILURE),
    ],
    ids=["nothing", "accuracy alone", "latency alone", "everything"],
)
def test_an_evaluation_is_a_result_or_a_failure(
    accuracy: Accuracy | None, latency: Latency | None, failure: Failure | None
) -> None:
    with pytest.raises(ValueError, match="or a failure"):
        Evaluation(ARCHITECTURE, accuracy, latency, failure, EFFORT)


def test_a_failure_keeps_no_latency() -> None:
    with pytest.raises(ValueError, match="or a failure"):
        Evaluation(ARCHITECTURE, None, LATENCY, FAILURE, EFFORT)


def test_an_evaluation_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        EVALUATIONS["success"].failure = FAILURE  # type: ignore[misc]


@pytest.mark.parametrize("stage", STAGES)
def test_a_failure_names_its_stage_and_kind(stage: str) -> None:
    failure = Failure.of(stage, TrainingError("the loss is NaN"))
    assert failure == Failure(stage, "TrainingError", "the loss is NaN")


def test_the_text_of_a_failure_is_one_line() -> None:
    error = TvmMnasError("it failed:\n\n  File 'x.py', line 3\n\t Segmentation fault \r\n")
    assert Failure.of("tuning", error).reason == (
        "it failed: File 'x.py', line 3 Segmentation fault"
    )


@pytest.mark.parametrize("text", ["", " \n"])
def test_a_failure_without_a_text_says_so(text: str) -> None:
    assert Failure.of("tuning", TvmMnasError(text)).reason == "no message"


def test_a_failure_in_no_stage_or_without_a_reason_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="'thinking'"):
        Failure("thinking", "TrainingError", "the loss is NaN")
    with pytest.raises(ValueError, match="reason"):
        Failure("training", "TrainingError", "")


@pytest.mark.parametrize("key", ["architecture", "accuracy", "latency", "failure", "effort"])
def test_a_stored_evaluation_has_every_key(key: str) -> None:
    stored = EVALUATIONS["success"].to_json()
    del stored[key]
    with pytest.raises(KeyError, match=key):
        Evaluation.from_json(stored)
