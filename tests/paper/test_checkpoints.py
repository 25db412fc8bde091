"""Accuracies of trained weights: measured of the file that was given, and of no network that it is not of."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from safetensors.torch import save_file

from tests.training.colours import write_colours
from tvm_mnas.errors import ConfigError, DataError, RunError
from tvm_mnas.paper.checkpoints import CheckpointAccuracy, measure_checkpoints, parse_checkpoints
from tvm_mnas.space.architecture import Architecture
from tvm_mnas.training.data.images import LoadOptions
from tvm_mnas.training.data.sources import load_data
from tvm_mnas.training.loop import train_candidate
from tvm_mnas.training.recipe import Recipe
from tvm_mnas.workflows.model_ref import ModelRef

TINY = Architecture.parse("i16_c3_w1:stem8_s22:r1_k3_s11_e3_i8_o8:head16:n2")


@dataclass
class Heard:
    """A listener that remembers the stages."""

    stages: list[tuple[str, int, int]] = field(default_factory=list)

    def stage(self, name: str, done: int, total: int) -> None:
        self.stages.append((name, done, total))

    def note(self, text: str) -> None:
        raise AssertionError(text)


@pytest.fixture
def colours(tmp_path: Path) -> str:
    root = tmp_path / "colours"
    write_colours(root)
    return f"imagefolder:{root}"


def test_the_accuracy_is_that_of_the_weights_in_the_file(colours: str, tmp_path: Path) -> None:
    splits = load_data(colours, LoadOptions(input_size=16, seed=0, workers=0))
    recipe = Recipe(steps=30, batch_size=8)
    right = train_candidate(TINY, splits, recipe, seed=0).network.state_dict()
    (classifier,) = [
        name for name, value in right.items() if value.ndim == 2 and value.shape[0] == 2
    ]
    bias = classifier.replace("weight", "bias")
    wrong = dict(right)
    for name in (classifier, bias):
        wrong[name] = right[name].flip(0).contiguous()
    models, files = [], {}
    for key, state in (("right", right), ("untrained", None), ("wrong", wrong)):
        models.append(ModelRef(name=key, architecture=TINY))
        if state is not None:
            files[key] = tmp_path / f"{key}.safetensors"
            save_file(state, files[key])
    heard = Heard()
    accuracies = measure_checkpoints(models, files, colours, observer=heard)
    assert list(accuracies) == ["right", "wrong"]
    assert accuracies["right"].top1 == 1.0
    assert accuracies["wrong"].top1 == 0.0
    assert accuracies["right"].samples == 6
    assert accuracies["right"].file == str(files["right"])
    assert heard.stages == [("checkpoints", 0, 2), ("checkpoints", 1, 2)]


def test_weights_of_another_network_and_data_of_other_classes_are_refused(
    colours: str, tmp_path: Path
) -> None:
    file = tmp_path / "net.safetensors"
    three = replace(TINY, classes=3)
    network = ModelRef(name="three", architecture=three).build(seed=0)
    assert network is not None
    save_file(network.state_dict(), file)
    with pytest.raises(RunError, match="names and shapes of the network's state_dict"):
        measure_checkpoints(
            [ModelRef(name="two", architecture=TINY)], {"two": file}, colours, observer=Heard()
        )
    with pytest.raises(DataError, match=r"three has 3 of them, .*colours 2"):
        measure_checkpoints(
            [ModelRef(name="three", architecture=three)], {"three": file}, colours, observer=Heard()
        )


def test_a_file_is_given_to_a_row_by_its_key(colours: str, tmp_path: Path) -> None:
    file = tmp_path / "a=b.safetensors"
    file.touch()
    assert parse_checkpoints([f"mnasnet={file}"], ["mnasnet"], colours) == {"mnasnet": file}
    assert parse_checkpoints([], ["mnasnet"], None) == {}


@pytest.mark.parametrize(
    ("text", "data", "words"),
    [
        ("mnasnet", "embedded", "KEY=FILE with the key of a row, not 'mnasnet'"),
        ("resnet=here", "embedded", "not 'resnet=here'; the rows are mobilenet-v2, mnasnet"),
        ("mnasnet=gone", "embedded", "cannot find 'gone'"),
        ("mnasnet=here", None, "type --data imagenet:PATH"),
        ("mnasnet=here", "imagenet:gone", "gone"),
    ],
    ids=["no-file", "other-network", "gone", "no-data", "no-images"],
)
def test_what_cannot_be_measured_is_said_before_anything_is(
    text: str, data: str | None, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("here").touch()
    with pytest.raises((ConfigError, DataError), match=re.escape(words)):
        parse_checkpoints([text], ["mobilenet-v2", "mnasnet"], data)


def test_few_images_leave_much_open() -> None:
    accuracy = CheckpointAccuracy(file="net.safetensors", data="embedded", top1=0.5, samples=100)
    assert accuracy.standard_error_percent == pytest.approx(5.0)
    assert str(accuracy) == (
        "top-1 50.00 +- 5.00 %, measured of net.safetensors on the 100 test images of embedded"
    )
