"""`tvm-mnas table`, and searches on one from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.evaluation.tables.four import SPACE, write_space, write_table
from tvm_mnas.cli import app
from tvm_mnas.commands.table import show
from tvm_mnas.errors import ConfigError, RunError


def run(*arguments: str) -> str:
    """What a command prints on standard output."""
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_table(tmp_path, write_space(tmp_path))


def test_a_table_says_what_it_is_of(table: Path) -> None:
    printed = json.loads(run("table", "show", str(table), "--json"))
    assert printed == json.loads((table / "manifest.json").read_text())
    text = run("table", "show", str(table))
    assert "4 architectures of the space four" in text
    assert "accuracy after 240 steps (%)" in text
    assert "6.0" in text, "spread by noise"


def test_a_changed_table_is_not_shown(table: Path) -> None:
    (table / "kernels.jsonl").write_text("{}\n")
    with pytest.raises(RunError, match="is not the file that the table was finished with"):
        show(str(table))


def test_a_search_on_a_table_takes_its_space_and_its_target(table: Path, tmp_path: Path) -> None:
    # A table's space is found by name; this one is in a file.
    space = str(tmp_path / "four.toml")
    arguments = ["search", "--evaluator", f"table:{table}", "--space", space, "--trials", "12"]
    printed = json.loads(run(*arguments, "--run", "run", "--json"))
    assert printed["trials"] == 12
    assert printed["best_trial"] is not None
    assert printed["export"] is None
    settings = (tmp_path / "run" / "config.toml").read_text()
    assert "target_latency_ms = 0.025" in settings
    assert f'evaluator = "table:{table}"' in settings
    page = (tmp_path / "run" / "report" / "index.html").read_text()
    assert f"evaluated by table:{table}" in page
    text = run("search", "--resume", "run", "--trials", "16")
    assert "16 trials" in text
    assert "best: trial" in text


def test_what_cannot_be_searched_leaves_no_run(table: Path, tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text(SPACE.replace("[3, 5]", "[3, 7]"))
    for arguments, words in (
        (["--evaluator", "table:none"], "a table must be a directory or one of"),
        (["--evaluator", f"table:{table}", "--space", "other.toml"], "is of the space four"),
        (["--evaluator", "nothing"], "unknown evaluator 'nothing'"),
        (
            ["--evaluator", f"table:{table}", "--space", "four.toml", "--train-steps", "7"],
            "none of 7",
        ),
        (["--evaluator", f"table:{table}", "--space", "four.toml", "--plan"], "leave out --plan"),
    ):
        result = CliRunner().invoke(app, ["search", *arguments])
        assert isinstance(result.exception, ConfigError), result.output
        assert words in str(result.exception)
    assert not (tmp_path / "runs").exists()


def test_steps_are_numbers_or_none() -> None:
    result = CliRunner().invoke(app, ["table", "build", "-o", "x", "--steps", "6O"])
    assert isinstance(result.exception, ConfigError)
    assert "--steps takes whole numbers with commas between, not '6O'" in str(result.exception)
    assert not Path("x").exists()
