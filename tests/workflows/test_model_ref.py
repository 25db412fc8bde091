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
