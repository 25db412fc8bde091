"""Each example is short, and does what it says when run as it stands; also from a wheel, away from the checkout."""

from __future__ import annotations

import ast
import os
import random
import re
import shutil
import subprocess
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tvm_mnas.evaluation.trainers import TrainTask, run_training
from tvm_mnas.models.candidates import build_candidate
from tvm_mnas.space.candidate import parse_candidate
from tvm_mnas.space.catalogue import find_space
from tvm_mnas.training.data.images import read_embedded, shipped_class_names
from tvm_mnas.training.detection.drawn import CLASS_NAMES, DrawnImages
from tvm_mnas.training.recipe import Recipe

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
MOST_LINES = 40
DEADLINE_S = 280


@dataclass(frozen=True)
class Place:
    """Where examples run: with which Python, in which directory, seeing this checkout or not."""

    python: Path
    examples: Path
    directory: Path
    checkout: bool

    def run(self, name: str, *arguments: object) -> str:
        """Return what the example `name` prints."""
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        if self.checkout:
            environment["PYTHONPATH"] = str(ROOT)
        done = subprocess.run(
            [str(self.python), str(self.examples / name), *map(str, arguments)],
            cwd=self.directory,
            env=environment,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        assert done.returncode == 0, f"{name}: {done.stderr[-3000:]}"
        return done.stdout

    def exports(self) -> list[Path]:
        """The exported networks of the runs here, the newest last."""
        return sorted(self.directory.glob("runs/*/best"), key=lambda path: path.stat().st_mtime)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """One directory for all examples, so that a later one finds the records of an earlier one."""
    return Place(Path(sys.executable), EXAMPLES, tmp_path_factory.mktemp("examples"), checkout=True)


def check_own_trainer(place: Place) -> None:
    lines = place.run("own_trainer.py").splitlines()
    assert lines
    for line in lines:
        found = re.fullmatch(
            r"(?P<accuracy>[\d.]+)% (?P<latency>[\d.e-]+) ms  (?P<notation>\S+)", line
        )
        assert found is not None, line
        assert 0 <= float(found["accuracy"]) <= 100
        assert float(found["latency"]) > 0
        assert parse_candidate(found["notation"]).image_shape == (1, 3, 32, 32)


def check_own_data(place: Place) -> None:
    printed = place.run("own_data.py").strip()
    names, _, top1 = printed.rpartition(" ")
    assert ast.literal_eval(names) == ["0 degrees", "18 degrees", "36 degrees"]
    # Ten classes: stripes are so easy that twenty steps do better than guessing.
    assert 0.2 < float(top1) <= 1


def check_own_space(place: Place) -> None:
    lines = place.run("own_space.py").splitlines()
    assert lines
    accuracies, latencies = [], []
    for line in lines:
        accuracy, latency, unit, notation = line.split()
        accuracies.append(float(accuracy.removesuffix("%")))
        latencies.append(float(latency))
        assert unit == "ms"
        assert re.search(r"own_space\.py:build@3x32,n10\?width=\d+&depth=\d&kernel=[35]$", notation)
    # A Pareto front, the fastest first: who takes longer is more accurate.
    assert latencies == sorted(latencies) and latencies[0] > 0
    assert accuracies == sorted(accuracies)


def check_own_study(place: Place) -> None:
    lines = place.run("own_study.py").splitlines()
    assert len(lines) == 4
    for line in lines:
        params, _, rest = line.rpartition(": ")
        assert ast.literal_eval(params).keys() == {"width", "kernel", "depth"}
        latency, unit, *_, device = rest.split()
        assert (float(latency) > 0, unit, device) == (True, "ms", "local")


def check_own_proxy(place: Place) -> None:
    """The shipped table: a search by latency picks a better network than one by mult-adds."""
    lines = place.run("own_proxy.py").splitlines()
    assert [line.partition(":")[0] for line in lines] == ["latency", "mult-adds"]
    latency, mult_adds = (float(line.split()[1].removesuffix("%")) for line in lines)
    assert 0 <= latency < mult_adds


def check_classify(place: Place) -> None:
    """After `check_own_trainer`, whose network it loads: trained on the embedded images."""
    best = place.exports()[-1]
    words = place.run("classify.py", best).replace(",", "").split()
    assert words[0] == "accuracy"
    assert abs(float(words[1]) - float(words[words.index("manifest") + 1])) <= 0.005
    image = place.directory / "boot.png"
    Image.fromarray(np.asarray(read_embedded()[1].pixels[0])).save(image)
    name, _, label = place.run("classify.py", best, image).strip().partition(": ")
    assert name == str(image)
    assert label in shipped_class_names("embedded")


def check_detect(place: Place) -> None:
    """On what a short search for detectors exports."""
    run = place.directory / "runs" / "detect"
    settings = (
        "--trials 2 --batch 2 --train-steps 60 --final-steps 120 --finalists 1 --replicates 0"
    )
    subprocess.run(
        [
            *(str(place.python), "-m", "tvm_mnas", "search", "--task", "detection", "--run", run),
            *settings.split(),
            *("--schedules-per-kernel", "2"),
        ],
        cwd=place.directory,
        env={**os.environ, **({"PYTHONPATH": str(ROOT)} if place.checkout else {})},
        check=True,
        capture_output=True,
        timeout=DEADLINE_S,
    )
    image = place.directory / "shapes.png"
    DrawnImages(1, seed=9).draw(0).save(image)
    for line in place.run("detect.py", run / "best", image).splitlines():
        told = re.fullmatch(rf"{re.escape(str(image))}: (\w+) (0\.\d\d|1\.00) at ([\d ]+)", line)
        assert told is not None, line
        assert told[1] in CLASS_NAMES
        assert all(0 <= int(side) <= 160 for side in told[3].split())
    with Image.open(place.directory / "shapes-found.png") as found:
        assert found.size == (160, 160)


def test_there_is_no_example_that_is_not_run() -> None:
    names = {path.name for path in EXAMPLES.iterdir() if path.suffix == ".py"}
    assert {
        f"{name.removeprefix('check_')}.py" for name in globals() if name[:6] == "check_"
    } == names


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_is_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


def test_the_examples_trainer_trains_on_the_examples_data(tmp_path: Path) -> None:
    """The parts of own_trainer.py and own_data.py, as `--trainer` and `--data` name them, without a search."""
    steps: list[int] = []
    task = TrainTask(
        notation="i32_c3_w1:stem16_s22:r1_k5_s22_e3_i16_o24:r1_k5_s22_e3_i24_o32:head64:n10",
        data=f"{EXAMPLES / 'own_data.py'}:STRIPES",
        data_seed=0,
        seed=1,
        recipe=Recipe(steps=80, batch_size=64, learning_rate=0.1),
        trainer=f"{EXAMPLES / 'own_trainer.py'}:train",
        weights=tmp_path / "weights.safetensors",
    )
    accuracy = run_training(task, steps.append)
    assert steps == list(range(1, task.steps + 1))
    assert (accuracy.split, accuracy.steps, accuracy.seed) == ("validation", task.steps, task.seed)
    assert accuracy.top1 > 0.3, "ten classes: more than guessing"
    assert task.weights is not None and task.weights.is_file()


@pytest.mark.slow
def test_own_trainer_and_the_library_that_it_exports(place: Place) -> None:
    check_own_trainer(place)
    check_classify(place)


@pytest.mark.slow
def test_detect(place: Place) -> None:
    check_detect(place)


@pytest.mark.slow
def test_own_data(place: Place) -> None:
    check_own_data(place)


@pytest.mark.slow
def test_own_space(place: Place) -> None:
    check_own_space(place)


def test_the_examples_space_is_one_of_networks_that_run() -> None:
    """own_space.py, as `--space` names it, without a search; tests/workflows/test_search.py searches one like it."""
    space = find_space(f"{EXAMPLES / 'own_space.py'}:RESNETS")
    assert space.size == 18
    candidate = space.decode(space.sample(random.Random(0)))
    network = build_candidate(candidate, seed=0)
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.slow
def test_own_study(place: Place) -> None:
    check_own_study(place)


def test_own_proxy(place: Place) -> None:
    check_own_proxy(place)


@pytest.fixture
def installed(tmp_path: Path) -> Place:
    """A fresh environment with nothing but the wheel and what it needs, away from the checkout."""
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path / "dist")]
    subprocess.run([*build, str(ROOT)], check=True, capture_output=True, timeout=300)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True, timeout=120)
    python = tmp_path / "venv" / "bin" / "python"
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "-qq"]
    # torch first and alone, from the index that has it without CUDA, as `make wheel` does.
    pip += ["-c", str(ROOT / "constraints.txt")]
    subprocess.run([*pip, *_torch_index(), "torch"], cwd=tmp_path, check=True, timeout=900)
    subprocess.run([*pip, f"{wheel}[detection]"], cwd=tmp_path, check=True, timeout=900)
    shutil.copytree(EXAMPLES, tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "here").mkdir()
    return Place(python, tmp_path / "examples", tmp_path / "here", checkout=False)


def _torch_index() -> list[str]:
    """Return pip's options for the CPU build of torch, from the index of the Makefile if it answers."""
    found = re.search(r"^TORCH_INDEX \?= (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert found is not None
    try:
        urllib.request.urlopen(f"{found[1]}/torch/", timeout=5).close()
    except OSError:
        return []
    return ["--extra-index-url", found[1]]


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_a_wheel_is_enough_for_every_example(installed: Place) -> None:
    program = "import tvm_mnas; print(tvm_mnas.__file__)"
    found = subprocess.run(
        [str(installed.python), "-c", program],
        cwd=installed.directory,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert Path(found.strip()).is_relative_to(installed.python.parents[1]), "the checkout was used"
    check_own_trainer(installed)
    check_classify(installed)
    check_detect(installed)
    check_own_data(installed)
    check_own_space(installed)
    check_own_study(installed)
    check_own_proxy(installed)
