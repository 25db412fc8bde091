"""The comparison with other engines: what is counted, and contenders that are absent, wrong or dead."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

Script = Callable[[str], ModuleType]

CONTENDER = """
import json, sys
engine, setting = sys.argv[2:4]
print(json.dumps({"version": "1", "difference": float(setting)}), flush=True)
for line in sys.stdin:
    if engine == "dies":
        sys.exit("the engine has had enough")
    print(json.dumps({"median_ms": float(line) * 2, "best_ms": float(line)}), flush=True)
"""


def test_the_networks_are_the_published_ones(script: Script) -> None:
    from tvm_mnas.models.cost import count_cost
    from tvm_mnas.space.architecture import Architecture

    networks = script("networks")
    counts = {
        name: count_cost(Architecture.parse(notation)).parameters
        for name, notation in networks.NOTATIONS.items()
    }
    assert counts == {
        "mnasnet-b1": 4_383_312,
        "mobilenet-v2": 3_504_872,
        "mnasnet-a1": 3_887_038,
    }
    assert counts == networks.PARAMETERS


def test_a_settled_network_answers_to_its_image_and_is_the_same_again(script: Script) -> None:
    import torch

    networks = script("networks")
    first, second = (networks.settled_network("mobilenet-v2", seed=3) for _ in range(2))
    with torch.inference_mode():
        outputs = first(torch.randn((2, 3, 224, 224), generator=torch.Generator().manual_seed(0)))
    weights, again = first.state_dict(), second.state_dict()
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    # Were it all bias, both rows would be equal.
    assert (outputs[0] - outputs[1]).abs().max() > 0.1 * outputs.abs().max()


def test_ratios_are_those_within_a_round(script: Script) -> None:
    rivals = script("rivals")
    ours = rivals.Row(rivals.OURS, "tuned", "1", 0.0, (10.0, 20.0, 30.0), 9.0)
    theirs = rivals.Row("other", "a", "1", 0.0, (20.0, 40.0, 30.0), 19.0)
    # The ratio of medians would be 1.5: the third round was a slow one for both.
    assert theirs.ratio_to(ours) == 2.0
    assert theirs.median_ms == 30.0
    assert theirs.spread == pytest.approx(10 / 30)


def test_the_best_setting_of_each_engine_counts(script: Script) -> None:
    rivals = script("rivals")
    rows = [
        rivals.Row(rivals.OURS, "tuned", "1", 0.0, (10.0, 10.0), 9.0),
        rivals.Row("other", "slow", "1", 0.0, (30.0, 30.0), 29.0),
        rivals.Row("other", "quick", "1", 0.0, (5.0, 5.0), 4.0),
    ]
    lines = rivals.table(rows).splitlines()[2:]
    assert [line.count("**") for line in lines] == [4, 0, 4]
    assert "quick" in lines[0] and "**0.500**" in lines[0]
    assert "slow" in lines[1]
    assert rivals.OURS in lines[2] and "**1.000**" in lines[2]


@pytest.fixture
def contender(script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that starts an engine made of a few lines."""
    rivals = script("rivals")
    path = tmp_path / "contender.py"
    path.write_text(CONTENDER)
    monkeypatch.setattr(rivals, "__file__", str(path))
    started = []

    def start(engine: str, setting: str) -> Any:
        one = rivals.Contender(engine, setting, tmp_path, 0, sys.executable)
        started.append(one)
        one.ready()
        return one

    yield start
    for one in started:
        one.close()


def test_contenders_run_in_turn_and_equally_often(contender: Any, script: Script) -> None:
    rows = script("rivals").compare(
        [contender("one", "0"), contender("two", "0")], rounds=3, burst_s=0.5, seed=1
    )
    assert [(row.engine, row.medians_ms, row.best_ms) for row in rows] == [
        ("one", (1.0, 1.0, 1.0), 0.5),
        ("two", (1.0, 1.0, 1.0), 0.5),
    ]


def test_a_contender_with_another_output_than_torch_is_not_timed(contender: Any) -> None:
    assert contender("right", "1e-5").error is None
    assert "wrong output" in contender("wrong", "0.5").error
    assert "wrong output" in contender("nonsense", "nan").error


def test_a_contender_that_dies_says_why(contender: Any) -> None:
    one = contender("dies", "0")
    with pytest.raises(RuntimeError, match="had enough"):
        one.burst(0.1)


def test_a_rival_that_is_not_installed_is_said_to_be_so(
    script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rivals = script("rivals")
    np.save(tmp_path / "image.npy", np.zeros((1, 3, 8, 8), np.float32))
    absent = rivals.Engine("no_such_engine", rivals.prepare_openvino, ("a",))
    monkeypatch.setattr(rivals, "ENGINES", {"absent": absent})
    monkeypatch.setattr(rivals.os, "sched_setaffinity", lambda pid, cores: None)
    with (tmp_path / "reply").open("w") as reply:
        assert rivals.contend("absent", "a", tmp_path, 0, reply) == 1
    assert "not installed" in (tmp_path / "reply").read_text()
