"""The thesis on a table: picks judged by what is true, verdicts that say which way it came out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.evaluation.tables.four import write_space, write_table
from tests.paper.test_stand_ins import write_many
from tvm_mnas.cli import app
from tvm_mnas.errors import ConfigError
from tvm_mnas.evaluation.tables.files import find_table, read_manifest, read_table, write_manifest
from tvm_mnas.paper.stand_ins import STAND_INS
from tvm_mnas.paper.thesis import Pick, judge, make_picks, sentence
from tvm_mnas.search.reward import Reward
from tvm_mnas.space.candidate import parse_candidate
from tvm_mnas.space.files import load_space


def pick(stand_in: str, seed: int, regret: float, *, latency_ms: float = 1.0) -> Pick:
    return Pick(
        stand_in=stand_in,
        reward="soft",
        quantile=0.5,
        seed=seed,
        notation="n",
        accuracy=0.8,
        latency_ms=latency_ms,
        target_ms=1.0,
        regret_percent=regret,
        hypervolume_percent=90.0,
    )


def made_up(regrets: dict[str, float], *, seeds: int = 12) -> list[Pick]:
    """Picks whose regrets differ between seeds by a little."""
    soft = [
        pick(name, seed, regrets.get(name, 1.0) + 0.01 * ((seed * 7) % 5), latency_ms=1.2)
        for name in STAND_INS
        for seed in range(seeds)
    ]
    return soft + [replace(one, reward="hard", latency_ms=0.9) for one in soft]


def test_verdicts_are_of_the_picks_and_come_best_first() -> None:
    verdicts = judge(made_up({"parameters": 5.0, "forecast": 0.2}))
    soft = [one for one in verdicts if one.reward == "soft"]
    assert soft[0].stand_in == "forecast"
    assert soft[-1].stand_in == "parameters"
    assert soft[-1].mean_regret_percent == pytest.approx(5.02, abs=0.02)
    assert soft[-1].p is not None and soft[-1].p < 0.01
    assert [one.beyond_percent for one in verdicts] == [100.0] * 5 + [0.0] * 5
    tuned = next(one for one in soft if one.stand_in == "tuned")
    alike = next(one for one in soft if one.stand_in == "mult-adds")
    assert tuned.p is None
    assert alike.p == 1.0, "the same regrets"


def test_the_sentence_says_which_way_it_came_out() -> None:
    text = sentence(judge(made_up({"parameters": 5.0, "forecast": 0.2})))
    assert text.startswith(
        "With the soft constraint tuned latency's picks regret 1.02% in the mean;"
    )
    assert "significantly worse: parameters (5.02%)" in text
    assert "not told apart from it: mult-adds (1.02%), untuned (1.02%)" in text
    assert "significantly better: forecast (0.22%)" in text
    assert ". With the hard constraint" in text


@pytest.fixture
def many(tmp_path: Path) -> str:
    directory = write_many(tmp_path)
    manifest = read_manifest(directory)
    write_manifest(directory, replace(manifest, space=str(tmp_path / "many.toml")))
    return str(directory)


def test_picks_are_judged_by_long_accuracy_and_tuned_latency(many: str) -> None:
    table = read_table(find_table(many))
    picks = make_picks(Path(many), seeds=2, evaluations=12, jobs=1)
    assert len(picks) == 5 * 2 * 3 * 2
    for one in picks:
        candidate = parse_candidate(one.notation)
        truth = table.accuracy(candidate), table.latency_ms(candidate)
        assert (one.accuracy, one.latency_ms) == truth
        make = {"soft": Reward.soft, "hard": Reward.hard}[one.reward]
        reward = make(one.target_ms)
        best = max(
            reward(table.accuracy(other), table.latency_ms(other))
            for other in (parse_candidate(entry.notation) for entry in table.entries)
        )
        assert one.regret_percent == pytest.approx(100 * (1 - reward(*truth) / best))
        assert 0 <= one.hypervolume_percent <= 100.0 + 1e-9
    assert make_picks(Path(many), seeds=2, evaluations=12, jobs=2) == picks, "whoever does it"


def test_the_command_writes_a_picture_and_says_what_it_shows(many: str, tmp_path: Path) -> None:
    picture = tmp_path / "thesis.png"
    arguments = ["paper", "thesis", "--table", many, "--latencies", many, "--seeds", "2"]
    arguments += ["--evaluations", "8", "-o", str(picture)]
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    values = json.loads(result.stdout)
    assert len(values["verdicts"]) == 10
    assert values["shows"].startswith("With the soft constraint")
    assert picture.read_bytes().startswith(b"\x89PNG")
    text = CliRunner().invoke(app, arguments).stdout
    assert "skip_op none -> identity" in text
    assert values["shows"] in text


def test_a_table_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    space = write_space(tmp_path)
    directory = write_table(tmp_path, space)
    manifest = read_manifest(directory)
    fingerprint = load_space("fashion-mini").fingerprint
    write_manifest(
        directory, replace(manifest, space="fashion-mini", space_fingerprint=fingerprint)
    )
    with pytest.raises(ConfigError, match="has 4 of 384 architectures, each with 2 trainings"):
        make_picks(directory, seeds=2, evaluations=4, jobs=1)
