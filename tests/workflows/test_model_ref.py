"""What a MODEL names."""

from __future__ import annotations

from pathlib import Path

import pytest

from tvm_mnas.errors import ConfigError, SpaceError
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


def test_an_onnx_file_is_no_torch_network(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").touch()
    model = resolve_model(str(tmp_path / "net.onnx"))
    assert model.onnx_file == tmp_path / "net.onnx"
    assert model.build(seed=0) is None


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
