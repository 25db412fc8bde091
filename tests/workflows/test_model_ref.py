"""What a MODEL names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tvm_mnas.errors import ConfigError, SpaceError
from tvm_mnas.models.inference import export_onnx
from tvm_mnas.models.zoo.detectors import DETECTORS
from tvm_mnas.models.zoo.registry import ZOO, zoo_entry
from tvm_mnas.space.detector import DetectorArchitecture
from tvm_mnas.workflows.model_ref import ModelRef, resolve_model


@pytest.mark.parametrize("key", [entry.key for entry in (*ZOO, *DETECTORS)])
def test_a_key_names_the_network_of_the_zoo(key: str) -> None:
    model, entry = resolve_model(key), zoo_entry(key)
    assert model.architecture == entry.architecture
    assert (model.entry is entry) == (entry.architecture is None)
    assert model.input_shape == entry.input_shape


def test_a_notation_names_its_architecture() -> None:
    architecture = zoo_entry("mnasnet-b1").architecture
    assert architecture is not None
    assert resolve_model(architecture.notation).architecture == architecture


def test_a_network_without_notation_is_built_in_eval_mode() -> None:
    network = resolve_model("mobilenet-v1").build(seed=1)
    assert network is not None
    assert not network.training


def test_an_onnx_file_is_read_at_once_and_judged_by_onnx_runtime(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).eval()
    path = tmp_path / "net.onnx"
    export_onnx(network, (1, 3, 8, 8), path)
    loaded = resolve_model(str(path)).load(seed=0)
    assert (loaded.input_shape, loaded.input_dtype) == ((1, 3, 8, 8), "float32")
    assert loaded.judge.name.startswith("ONNX Runtime ")
    images = np.random.default_rng(0).standard_normal((2, 3, 8, 8), dtype=np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(images)).numpy()
        converted = loaded.network(torch.from_numpy(images)).numpy()
    (judged,) = loaded.judge.outputs(images)
    np.testing.assert_allclose(judged, expected, atol=1e-5)
    np.testing.assert_allclose(converted, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("text", "size", "classes"),
    [
        ("ssdlite+mnasnet-b1", 320, 80),
        ("ssdlite+mnasnet-b1@0.5", 320, 80),
        ("ssdlite+mnasnet-b1@0.5,192", 192, 80),
        ("ssdlite+i64_c3_w1:stem8_s22:r1_k3_s22_e3_o16:head24:n5", 64, 5),
    ],
)
def test_any_network_of_blocks_is_a_detectors_backbone(text: str, size: int, classes: int) -> None:
    model = resolve_model(text)
    assert isinstance(model.architecture, DetectorArchitecture)
    assert (model.architecture.input_size, model.architecture.classes) == (size, classes)
    assert model.input_shape == (1, 3, size, size)
    assert resolve_model(model.architecture.notation).architecture == model.architecture


def test_a_detector_may_end_at_its_predictions() -> None:
    text = "ssdlite+i32_c3_w1:stem8_s22:r1_k3_s22_e3_o16:head24:n5"
    whole, raw = resolve_model(text).build(seed=0), resolve_model(f"{text}+raw").build(seed=0)
    images = torch.zeros(1, 3, 32, 32)
    with torch.no_grad():
        assert whole(images).shape == (1, 100, 6)
        offsets, logits = raw(images)
    assert (offsets.shape[2], logits.shape[2]) == (4, 6)
    with pytest.raises(ConfigError, match=r"\+raw ends a detector .*, and mnasnet-b1\+raw is none"):
        resolve_model("mnasnet-b1+raw").build(seed=0)


def test_what_has_no_blocks_is_no_backbone() -> None:
    with pytest.raises(ConfigError, match="'squeezenext' is no sequence of blocks"):
        resolve_model("ssdlite+squeezenext")


def test_only_a_file_takes_a_shape() -> None:
    with pytest.raises(ConfigError, match=r"--input-shape is for files"):
        resolve_model("mnasnet-b1", input_shape=(1, 3, 96, 96))


def test_an_onnx_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"net\.onnx.*check the path"):
        resolve_model(str(tmp_path / "net.onnx"))


def test_an_unknown_key_lists_those_there_are() -> None:
    with pytest.raises(ConfigError, match="mnasnet-b2.*nasnet-a-mobile.*tvm-mnas space"):
        resolve_model("mnasnet-b2")


def test_what_looks_like_a_notation_is_read_as_one() -> None:
    with pytest.raises(SpaceError):
        resolve_model("nonsense:here")


def test_a_model_comes_from_one_place() -> None:
    with pytest.raises(ConfigError, match="of the zoo, or a file"):
        ModelRef(name="nothing")
