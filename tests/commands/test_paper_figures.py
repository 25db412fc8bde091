"""`tvm-mnas paper figure2 | figure4 | figure5 | figure6`, without a device."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.report.runs import make_latency, make_run
from tvm_mnas.commands import paper_figures
from tvm_mnas.errors import ConfigError, RunError
from tvm_mnas.search import lineup
from tvm_mnas.search.lineup import Timed
from tvm_mnas.search.model import Model
from tvm_mnas.search.reward import Reward
from tvm_mnas.search.run import RunDirectory, TrialRecord

PNG = b"\x89PNG"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Times each network a millisecond longer than the one before; one fails. Returns what was asked for."""
    names: list[str] = []

    def time_models(models: Sequence[Model], **options: Any) -> list[Timed]:
        names.extend(model.name for model in models)
        return [
            Timed(name=model.name, failure="tuning: gone")
            if model.name == "mnasnet@1.4,224"
            else Timed(name=model.name, latencies=(make_latency(1.0 + number),), kernels=1)
            for number, model in enumerate(models)
        ]

    monkeypatch.setattr(lineup, "time_models", time_models)
    return names


class Finished:
    """A run directory that has these trials."""

    def __init__(self, records: list[TrialRecord], reward: Reward) -> None:
        self.reward = reward
        self._records = records

    def finished_trials(self) -> list[TrialRecord]:
        return self._records


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> dict[str, Finished]:
    """Two searches as the paper has them, by the name of their directory."""
    finished = {
        "hard": Finished(make_run(12), Reward.hard(0.06)),
        "soft": Finished(make_run(12), Reward.soft(0.06)),
    }
    monkeypatch.setattr(RunDirectory, "open", lambda path: finished[path.name])
    return finished


def test_figure_2_is_equation_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paper_figures.figure2(tmp_path / "figure2.png", as_json=True)
    rows = {row["latency_ms"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows[80] == {"latency_ms": 80, "alpha=0, beta=-1": 0.5, "alpha=beta=-0.07": 0.5}
    assert rows[160]["alpha=0, beta=-1"] == pytest.approx(0.25)
    assert rows[40]["alpha=0, beta=-1"] == pytest.approx(0.5)
    assert rows[40]["alpha=beta=-0.07"] == pytest.approx(0.5 * 2**0.07)
    assert (tmp_path / "figure2.png").read_bytes().startswith(PNG)


def test_figure_4_times_both_networks_at_every_scale(
    asked: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paper_figures.figure4(output=tmp_path / "figure4.png", as_json=True)
    rows = json.loads(capsys.readouterr().out)
    # Five widths at 224 and four more sizes, of two networks.
    assert len(rows) == len(asked) == 18
    assert {"mobilenet-v2@0.35,224", "mnasnet@1,96"} <= set(asked)
    (full,) = [row for row in rows if (row["network"], row["scale"]) == ("mnasnet", "1,224")]
    assert full["parameters"] == 4_383_312
    (failed,) = [row for row in rows if row["latency_ms"] is None]
    assert (failed["network"], failed["scale"]) == ("mnasnet", "1.4,224")
    assert (tmp_path / "figure4.png").read_bytes().startswith(PNG)


def test_figure_4_prints_what_failed(asked: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    paper_figures.figure4()
    out = capsys.readouterr().out
    assert "mnasnet@1.4,224 has no latency: tuning: gone" in out
    assert "4.38M" in out


def test_figure_5_draws_each_run(
    runs: dict[str, Finished], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paper_figures.figure5([Path("hard"), Path("soft")], tmp_path, as_json=True)
    hard, soft = json.loads(capsys.readouterr().out)
    assert (hard["alpha"], hard["beta"]) == (0, -1)
    assert (soft["alpha"], soft["beta"]) == (-0.07, -0.07)
    assert hard["front"] >= 1
    assert 0 <= hard["near_target_percent"] <= 100
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"figure5-{run}-{kind}.png" for run in ("hard", "soft") for kind in ("histogram", "pareto")
    ]


def test_figure_6_puts_small_networks_beside_a_run(
    asked: list[str], runs: dict[str, Finished], capsys: pytest.CaptureFixture[str]
) -> None:
    paper_figures.figure6(run=Path("soft"), as_json=True)
    printed = json.loads(capsys.readouterr().out)
    assert asked == [
        *("mobilenet-v2@0.5,160", "mobilenet-v2@0.5,192"),
        *("mnasnet@0.5,160", "mnasnet@0.5,192"),
    ]
    assert len(printed["scaled"]) == 4
    assert printed["search"]
    paper_figures.figure6(run=Path("soft"))
    assert "not ImageNet's" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("output", "message"),
    [("figure.pdf", r"a \.png file"), ("none/figure.png", "make it first")],
)
def test_a_wrong_output_is_refused_before_anything_is_timed(
    output: str, message: str, asked: list[str], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        paper_figures.figure4(output=tmp_path / output)
    with pytest.raises(ConfigError, match=message):
        paper_figures.figure2(tmp_path / output)
    assert asked == []


def test_a_run_that_is_none_is_one_clear_error(asked: list[str], tmp_path: Path) -> None:
    with pytest.raises(RunError):
        paper_figures.figure5([tmp_path], tmp_path)
    with pytest.raises(RunError):
        paper_figures.figure6(run=tmp_path)
    with pytest.raises(ConfigError, match="make it first"):
        paper_figures.figure5([tmp_path], tmp_path / "none")
    assert asked == []
