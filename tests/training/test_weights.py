"""Weights on disk: they come back exactly, and only into the network they belong to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tvm_mnas.errors import RunError
from tvm_mnas.models.network import build_network
from tvm_mnas.space.architecture import Architecture
from tvm_mnas.training.data.splits import DataSplits
from tvm_mnas.training.loop import train_candidate
from tvm_mnas.training.recipe import Recipe
from tvm_mnas.training.weights import load_checkpoint, load_network, load_weights, save_weights


def test_trained_weights_round_trip(
    tiny: Architecture, tiny_splits: DataSplits, tmp_path: Path
) -> None:
    trained = train_candidate(tiny, tiny_splits, Recipe(steps=3, batch_size=8), seed=0).network
    path = tmp_path / "net.safetensors"
    save_weights(trained, path)
    _, loaded = load_network(path)
    assert loaded.architecture == tiny
    assert not loaded.training
    expected = trained.state_dict()
    assert all(torch.equal(expected[name], value) for name, value in loaded.state_dict().items())
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(loaded(images), trained(images))
    assert [entry.name for entry in tmp_path.iterdir()] == ["net.safetensors"]


def test_weights_of_another_architecture_are_refused(tiny: Architecture, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save_weights(build_network(tiny), path)
    other = replace(tiny, head_filters=48)
    with pytest.raises(RunError, match=r"head32.*, not .*head48"):
        load_weights(build_network(other), path)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda path: None, "cannot be read"),
        (lambda path: path.write_bytes(b"torn"), "cannot be read"),
        (lambda path: save_file({"a": torch.zeros(1)}, path), "does not say which architecture"),
        (
            lambda path: save_file({"a": torch.zeros(1)}, path, {"architecture": "nonsense"}),
            "cannot be read",
        ),
    ],
    ids=["missing", "torn", "foreign", "unreadable-notation"],
)
def test_unusable_files_get_one_line(tmp_path: Path, write, words: str) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "net.safetensors"
    write(path)
    with pytest.raises(RunError, match=words) as caught:
        load_network(path)
    assert "\n" not in str(caught.value)


def test_missing_tensors_are_noticed(tiny: Architecture, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save_file({"a": torch.zeros(1)}, path, {"architecture": tiny.notation})
    with pytest.raises(RunError, match="lacks weights"):
        load_network(path)


def test_a_checkpoint_fills_any_network_by_its_names(tmp_path: Path) -> None:
    trained, other, wider = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2), torch.nn.Linear(4, 2)
    deeper = torch.nn.Sequential(torch.nn.Linear(3, 2))
    path = tmp_path / "linear.safetensors"
    save_file(trained.state_dict(), path)
    load_checkpoint(other, path)
    assert torch.equal(other.weight, trained.weight)
    assert torch.equal(other.bias, trained.bias)
    with pytest.raises(
        RunError, match=r"linear.safetensors does not \(1 differ, such as weight\); "
    ):
        load_checkpoint(wider, path)
    words = r"\(2 lack, such as 0.weight; 2 are unknown, such as bias\)"
    with pytest.raises(RunError, match=words):
        load_checkpoint(deeper, path)
    with pytest.raises(RunError, match="cannot be read"):
        load_checkpoint(other, tmp_path / "gone.safetensors")
