"""Weights on disk: they come back exactly, and only into the network they belong to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tvm_mnas.errors import RunError
from tvm_mnas.models.candidates import build_candidate
from tvm_mnas.models.network import build_network
from tvm_mnas.space.architecture import Architecture
from tvm_mnas.space.detector import DetectorArchitecture
from tvm_mnas.training.data.splits import DataSplits
from tvm_mnas.training.loop import train_candidate
from tvm_mnas.training.recipe import Recipe
from tvm_mnas.training.weights import (
    load_checkpoint,
    load_network,
    load_start,
    load_weights,
    save_weights,
)


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


def test_a_detector_starts_from_a_classifier_or_from_a_detector_of_other_classes(
    tmp_path: Path,
) -> None:
    backbone = Architecture.parse("i32_c3_w1:stem8_s22:r1_k3_s22_e3_o16:head24:n5")
    classifier = build_network(backbone, seed=7)
    save_weights(classifier, tmp_path / "classifier.safetensors")
    detector = build_candidate(DetectorArchitecture(backbone), seed=1)
    kept = load_start(detector, tmp_path / "classifier.safetensors")
    state = detector.state_dict()
    for name, value in classifier.state_dict().items():
        if not name.startswith("classifier."):
            assert torch.equal(state[f"network.backbone.{name}"], value)
    assert kept and not [name for name in kept if "backbone" in name]
    save_weights(detector, tmp_path / "detector.safetensors", DetectorArchitecture(backbone))
    other = build_candidate(DetectorArchitecture(backbone).of_classes(2), seed=2)
    kept = load_start(other, tmp_path / "detector.safetensors")
    assert all(name.startswith("network.heads.logits.") for name in kept) and kept
    assert torch.equal(
        other.state_dict()["network.extra.0.0.0.weight"], state["network.extra.0.0.0.weight"]
    )
    wider = replace(backbone, stem_filters=16)
    with pytest.raises(RunError, match="differ in the classifier at most"):
        load_start(
            build_candidate(DetectorArchitecture(wider), seed=0),
            tmp_path / "classifier.safetensors",
        )
