"""The manifest of an exported network: its form is kept, and a damaged file is told by what is wrong in it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.report.runs import make_latency, make_manifest, sample_architectures
from tvm_mnas.errors import RunError
from tvm_mnas.evaluation.agreement import Agreement
from tvm_mnas.evaluation.manifest import Manifest, read_manifest, write_manifest

GOLDEN = Path(__file__).parents[1] / "golden" / "manifest.json"


def stored() -> dict[str, Any]:
    (architecture,) = sample_architectures(1)
    return make_manifest(architecture, make_latency(0.05)).to_json()


def test_its_form_is_the_golden_one() -> None:
    assert json.loads(json.dumps(stored(), allow_nan=False)) == json.loads(GOLDEN.read_text())


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    manifest = Manifest.from_json(stored())
    write_manifest(tmp_path / "manifest.json", manifest)
    assert read_manifest(tmp_path / "manifest.json") == manifest


def test_a_network_that_no_search_found_has_no_trial() -> None:
    manifest = Manifest.from_json(stored())
    alone = replace(
        manifest, origin=replace(manifest.origin, trial=None, trials=None, algorithm=None)
    )
    assert Manifest.from_json(json.loads(json.dumps(alone.to_json()))) == alone


def test_the_name_that_version_0_1_gave_the_schedules_is_read() -> None:
    values = stored()
    values["artifact"]["tuning_trials"] = values["artifact"].pop("schedules_measured")
    assert Manifest.from_json(values) == Manifest.from_json(stored())


def test_a_manifest_of_format_1_is_read() -> None:
    old = Manifest.from_json(json.loads(GOLDEN.with_name("manifest-format-1.json").read_text()))
    new = Manifest.from_json(stored())
    assert old.agreement == Agreement(judge="torch", images=16, difference=3e-07)
    assert old.origin.accuracy_noise is None
    assert replace(old, agreement=new.agreement, origin=new.origin) == new
    assert replace(new.origin, accuracy_noise=None) == old.origin


def test_one_of_a_version_without_half_precision_is_of_float32() -> None:
    values = stored()
    for name in ("dtype", "accumulator"):
        del values["artifact"][name]
    assert Manifest.from_json(values).artifact.dtype == "float32"
    assert Manifest.from_json(values) == Manifest.from_json(stored())


def test_what_a_network_computes_in_is_kept() -> None:
    manifest = Manifest.from_json(stored())
    half = replace(
        manifest,
        latency=replace(manifest.latency, dtype="float16", accumulator="float32"),
        artifact=replace(manifest.artifact, dtype="float16", accumulator="float32"),
    )
    assert Manifest.from_json(json.loads(json.dumps(half.to_json()))) == half
    assert half.to_json()["artifact"]["accumulator"] == "float32"


def test_a_key_of_a_later_version_is_passed_over() -> None:
    values = stored()
    values["artifact"]["compressed_bytes"] = 3
    assert Manifest.from_json({**values, "licence": "MIT"}) == Manifest.from_json(stored())


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (("format",), 3, "format 3"),
        (("origin",), None, "origin"),
        (("origin", "accuracy_noise"), {"noise": 0.1}, "noise of the accuracies"),
        (("origin", "trial"), "three", "origin.trial is of type int; it is 'three'"),
        (("parameters",), True, "parameters"),
        (("input", "shape"), 3, "input.shape is a list"),
        (("data", "grey"), 1, "data.grey"),
        (("data", "mean"), ["a"], "data.mean"),
        (("accuracy", "test"), {"top1": 2}, "accuracy"),
        (("latency", "samples_ms"), [], "a tuple of samples"),
        (("agreement", "images"), None, "lacks agreement.images"),
        (("artifact", "dtype"), 16, "artifact.dtype is of type str; it is 16"),
        (("versions",), ["torch"], "versions"),
    ],
)
def test_what_is_wrong_is_named(
    path: tuple[str, ...], value: object, expected: str, tmp_path: Path
) -> None:
    values = stored()
    *parents, last = path
    table = values
    for key in parents:
        table = table[key]
    table[last] = value
    file = tmp_path / "manifest.json"
    file.write_text(json.dumps(values))
    with pytest.raises(RunError, match="tvm-mnas export") as raised:
        read_manifest(file)
    assert expected in str(raised.value)
    assert str(file) in str(raised.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "{}"])
def test_what_is_no_manifest_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "manifest.json"
    file.write_text(text)
    with pytest.raises(RunError, match="cannot read the manifest"):
        read_manifest(file)


def test_one_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="No such file"):
        read_manifest(tmp_path / "manifest.json")
