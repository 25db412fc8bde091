"""`tvm-mnas train`: a whole training, interrupted and resumed, by one process or two, and what is said of mistakes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tvm_mnas.errors import DataError, Interruption, RunError
from tvm_mnas.training.processes import SINGLE
from tvm_mnas.training.recipe import Recipe, find_recipe
from tvm_mnas.workflows.training.full import train
from tvm_mnas.workflows.training.request import TrainingRequest, create_training, read_request

NOTATION = "i32_c3_w1:stem8_s22:r1_k3_s11_e1_i8_o8:r1_k3_s22_e3_i8_o16:head32:n10"
SHORT = Recipe(steps=24, batch_size=16, warmup_steps=4, dropout=0.2, ema_decay=0.9)
FLAGS = [
    *("--data", "embedded", "--recipe", "imagenet-full", "--train-device", "cpu", "--no-export"),
    *("--set", "steps=20", "--set", "batch_size=32", "--set", "precision=float32"),
    *("--set", "dropout=0", "--set", "warmup_steps=4"),
]


class Heard:
    """Keeps what it hears, and may interrupt."""

    def __init__(self, interrupt_at: int | None = None) -> None:
        self.notes: list[str] = []
        self.interrupt_at = interrupt_at

    def stage(self, name: str, done: int, total: int) -> None:
        if name == "training" and done == self.interrupt_at:
            os.kill(os.getpid(), signal.SIGINT)

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(autouse=True)
def _one_thread() -> object:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def started(out: Path, recipe: Recipe = SHORT, *, notation: str = NOTATION) -> Path:
    create_training(out, TrainingRequest(notation=notation, data="embedded", recipe=recipe, seed=3))
    return out


def run(out: Path, heard: Heard | None = None) -> object:
    return train(out, device="cpu", workers=0, observer=heard or Heard(), group=SINGLE)


def losses(out: Path) -> list[float]:
    return [line["loss"] for line in lines_of(out) if "loss" in line]


def lines_of(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def test_an_interrupted_training_goes_on_to_the_same_end(tmp_path: Path) -> None:
    whole = run(started(tmp_path / "whole"))
    broken = started(tmp_path / "broken")
    with pytest.raises(Interruption):
        run(broken, Heard(interrupt_at=7))
    assert not (broken / "result.json").exists()
    assert len(losses(broken)) == 7
    heard = Heard()
    resumed = run(broken, heard)
    assert heard.notes == ["goes on after step 7 of 24"]
    assert resumed.test == whole.test  # type: ignore[attr-defined]
    assert losses(broken) == losses(tmp_path / "whole")
    for name in ("weights.safetensors", "checkpoint.safetensors"):
        expected, found = load_file(tmp_path / "whole" / name), load_file(broken / name)
        assert set(found) == set(expected)
        assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_a_signal_is_heard_as_before_once_a_training_is_over(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    run(started(tmp_path / "out"))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_the_result_is_that_of_the_average_on_the_test(tmp_path: Path) -> None:
    from tvm_mnas.training.data.images import LoadOptions
    from tvm_mnas.training.data.sources import load_data
    from tvm_mnas.training.tasks import Classification
    from tvm_mnas.training.weights import load_network

    out = started(tmp_path / "out")
    run(out)
    result = json.loads((out / "result.json").read_text())
    splits = load_data("embedded", LoadOptions(input_size=32, seed=3))
    _, network = load_network(out / "weights.safetensors")
    score = Classification().evaluate(network, splits.test, splits.normalization)
    assert {name: result[f"test_{name}"] for name in ("top1", "top5")} == score.measures
    assert result["test_samples"] == 4000
    assert 0 < result["test_top1"] <= result["test_top5"] <= 1
    checkpoint = load_file(out / "checkpoint.safetensors")
    weights = load_file(out / "weights.safetensors")
    name = "classifier.weight"
    assert torch.equal(weights[name], checkpoint[f"average.module.{name}"])
    assert not torch.equal(weights[name], checkpoint[f"network.{name}"])


def test_a_finished_training_is_not_touched_again(tmp_path: Path) -> None:
    out = started(tmp_path / "out")
    first = run(out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert run(out) == first
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def images_in(root: Path) -> Path:
    """Three classes of twenty images, and ten to be tested with."""
    for split, count in (("train", 20), ("test", 10)):
        for label in range(3):
            (root / split / str(label)).mkdir(parents=True)
            for number in range(count):
                image = Image.new("RGB", (8, 8), (80 * label, number, 0))
                image.save(root / split / str(label) / f"{number}.png")
    return root


def test_the_log_has_the_accuracy_after_each_epoch_and_training_goes_on_as_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = images_in(tmp_path / "images")
    request = TrainingRequest(
        notation="i8_c3_w1:stem8_s22:r1_k3_s11_e1_i8_o8:head8:n3",
        data=f"imagefolder:{images}",
        # With dropout and without a moving average: what is judged is what is trained.
        recipe=Recipe(epochs=3, batch_size=8, dropout=0.3),
    )
    create_training(tmp_path / "out", request)
    run(tmp_path / "out")
    lines = lines_of(tmp_path / "out")
    judged = [line for line in lines if "validation_top1" in line]
    plan = request.recipe.plan(48)
    assert plan.steps == 18
    assert [line["step"] for line in judged] == [6, 12, 18]
    assert [line["epoch"] for line in judged] == [1, 2, 3]
    assert all(0 <= line["validation_top1"] <= line["validation_top5"] <= 1 for line in judged)
    assert [line["step"] for line in lines if "test_top1" in line] == [18]

    monkeypatch.setattr("tvm_mnas.workflows.training.full._ends_epoch", lambda step, plan: False)
    create_training(tmp_path / "without", request)
    run(tmp_path / "without")
    assert losses(tmp_path / "without") == losses(tmp_path / "out")


def test_a_request_comes_back_from_its_file(tmp_path: Path) -> None:
    request = TrainingRequest(
        notation=NOTATION, data="embedded", recipe=find_recipe("imagenet-full"), seed=5
    )
    create_training(tmp_path / "out", request)
    assert read_request(tmp_path / "out") == request


def test_two_processes_train_as_one_does(tmp_path: Path) -> None:
    changes = {"steps": 20, "batch_size": 32, "precision": "float32", "dropout": 0.0}
    recipe = find_recipe("imagenet-full", changes | {"warmup_steps": 4})
    run(started(tmp_path / "one", recipe))
    program = ["-m", "tvm_mnas", "train", NOTATION, *FLAGS, "--seed", "3"]
    torchrun = [*("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")]
    ended = subprocess.run(
        [sys.executable, *torchrun, *program, "-o", str(tmp_path / "two")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    assert read_request(tmp_path / "two") == read_request(tmp_path / "one")
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == len(two) == 20
    assert max(abs(a - b) for a, b in zip(one, two, strict=True)) < 1e-4
    assert one[0] != one[-1]


def test_a_killed_training_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "tvm_mnas", "train", NOTATION, *FLAGS, "-o", str(out)]
    command[command.index("steps=20")] = "steps=4000"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        log = out / "log.jsonl"
        deadline = time.monotonic() + 120
        while not (log.is_file() and log.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.terminate()
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "interrupted" in errors
    assert (out / "checkpoint.safetensors").is_file()
    with pytest.raises(RunError, match="--resume"):
        started(out)


def test_weights_to_start_with_may_have_other_classes(tmp_path: Path) -> None:
    run(started(tmp_path / "first"))
    first = tmp_path / "first" / "weights.safetensors"
    other = NOTATION.replace(":n10", ":n12")
    request = TrainingRequest(
        notation=other,
        data="embedded",
        recipe=Recipe(steps=1, learning_rate=1e-9, batch_size=4, optimizer="sgd"),
        start=str(first),
    )
    create_training(tmp_path / "second", request)
    heard = Heard()
    run(tmp_path / "second", heard)
    assert heard.notes == [f"{first} is of other classes: what tells them apart starts anew"]
    before, after = load_file(first), load_file(tmp_path / "second" / "weights.safetensors")
    name = next(key for key in before if key.endswith("weight") and before[key].ndim == 4)
    assert torch.allclose(before[name], after[name], atol=1e-5)
    assert after["classifier.weight"].shape[0] == 12
    strange = TrainingRequest(
        notation=NOTATION.replace("head32", "head40"),
        data="embedded",
        recipe=SHORT,
        start=str(first),
    )
    create_training(tmp_path / "third", strange)
    with pytest.raises(RunError, match="differ in the classifier at most"):
        run(tmp_path / "third")


def test_a_checkpoint_of_another_network_is_one_line(tmp_path: Path) -> None:
    run(started(tmp_path / "first"))
    out = started(tmp_path / "second", notation=NOTATION.replace("head32", "head40"))
    (tmp_path / "first" / "checkpoint.safetensors").rename(out / "checkpoint.safetensors")
    with pytest.raises(RunError, match="is of another training: its notation is") as caught:
        run(out)
    assert "\n" not in str(caught.value)


def test_a_directory_of_no_training_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is no training: it has no training"):
        read_request(tmp_path)
    for content, words in (("{", "damaged"), ('{"schema": 9}', "version 1"), ('{"schema": 1}', "damaged")):  # fmt: skip
        (tmp_path / "training.json").write_text(content)
        with pytest.raises(RunError, match=words) as caught:
            read_request(tmp_path)
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="no such place"):
        create_training(
            tmp_path / "new",
            TrainingRequest(notation=NOTATION, data="imagefolder:/no such place", recipe=SHORT),
        )
    assert not (tmp_path / "new").exists()
