"""`tvm-mnas paper figure...`: what is printed and written, without a device."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.report.runs import make_latency, make_run
from tvm_mnas.commands.paper import figures
from tvm_mnas.config import SearchConfig
from tvm_mnas.errors import ConfigError, RunError
from tvm_mnas.evaluation.toolchain import ToolchainOptions
from tvm_mnas.search.run import RunDirectory
from tvm_mnas.workflows import compare as lineup
from tvm_mnas.workflows.compare import ModelTiming
from tvm_mnas.workflows.model_ref import ModelRef


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Times every network at 5 ms; returns the names of those that were asked for."""
    names: list[str] = []

    def compare_models(
        models: Sequence[ModelRef], options: ToolchainOptions, **_: Any
    ) -> list[ModelTiming]:
        names.extend(model.name for model in models)
        return [ModelTiming(name=model.name, latencies=(make_latency(5.0),)) for model in models]

    monkeypatch.setattr(lineup, "compare_models", compare_models)
    return names


def test_figure_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "figure2.png"
    figures.figure2(output, as_json=True)
    assert json.loads(capsys.readouterr().out)["objectives"][0]["hard"] == 0.5
    assert output.read_bytes().startswith(b"\x89PNG")


def test_figure_4_names_the_source(
    asked: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures.figure4(tmp_path / "figure4.png")
    out = capsys.readouterr().out
    assert len(asked) == 18
    assert "tensorflow/models" in out
    assert "nothing was trained" in out
    assert (tmp_path / "figure4.png").is_file()


def test_figure_6_without_a_run(
    asked: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures.figure6(tmp_path / "figure6.png", as_json=True)
    values = json.loads(capsys.readouterr().out)
    assert asked == [row["model"] for row in values["networks"]]
    assert values["new_search"] == []


def test_figures_of_a_run(
    asked: list[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = RunDirectory.create(tmp_path / "searched", SearchConfig()).path
    monkeypatch.setattr(RunDirectory, "finished_trials", lambda _: make_run(12))
    figures.figure5([run, run], tmp_path / "figure5.png", as_json=True)
    rows = json.loads(capsys.readouterr().out)["runs"]
    assert [row["run"] for row in rows] == ["searched", "searched"]
    assert rows[0]["measured"] > rows[0]["near_target"]
    figures.figure6(tmp_path / "figure6.png", run=run)
    assert "(not ImageNet's)" in capsys.readouterr().out


def test_a_run_of_another_device_is_not_drawn_beside_this_one(
    asked: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = RunDirectory.create(tmp_path / "searched", SearchConfig()).path
    trials = make_run(12, device_key="pixel")
    monkeypatch.setattr(RunDirectory, "finished_trials", lambda _: trials)
    with pytest.raises(ConfigError, match="of pixel beside local; type --device pixel"):
        figures.figure6(tmp_path / "figure6.png", run=run)
    assert asked == []


def test_bad_input_is_refused_before_anything_is_timed(asked: list[str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\.png file"):
        figures.figure4(tmp_path / "figure4.pdf")
    with pytest.raises(ConfigError, match="mkdir -p"):
        figures.figure4(tmp_path / "missing" / "figure4.png")
    with pytest.raises(RunError, match=r"config\.toml"):
        figures.figure5([tmp_path], tmp_path / "figure5.png")
    with pytest.raises(RunError, match=r"config\.toml"):
        figures.figure6(tmp_path / "figure6.png", run=tmp_path)
    assert asked == []
