"""The run directory: one process at a time, and no damage that passes for a search."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest

from tests.report.runs import make_failure, make_latency, make_success, sample_architectures
from tvm_mnas.config import SearchConfig
from tvm_mnas.errors import ConfigError, RunError, TvmMnasError
from tvm_mnas.evaluation.results import Evaluation
from tvm_mnas.search.run import REPEATS_ATTRIBUTE, RunDirectory
from tvm_mnas.search.study.compact import EVALUATION_ATTRIBUTE

ROOT = Path(__file__).resolve().parents[2]
CONFIG = SearchConfig(trials=3)


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "run", CONFIG)


@pytest.fixture
def searched(run: RunDirectory) -> RunDirectory:
    """A run of three trials: one measured, one failed, one met before."""
    first, second = sample_architectures(2)
    success = make_success(0, first, 0.8, make_latency(0.05)).evaluation
    failure = make_failure(1, second).evaluation
    with run.lock():
        study = run.study()
        for evaluation, repeats in ((success, None), (failure, None), (success, 0)):
            trial = study.ask()
            trial.set_user_attr(EVALUATION_ATTRIBUTE, evaluation.to_json())
            if repeats is not None:
                trial.set_user_attr(REPEATS_ATTRIBUTE, repeats)
            if evaluation.objectives is None:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            else:
                study.tell(trial, evaluation.objectives)
    return run


def assert_one_line(error: TvmMnasError, *parts: str) -> None:
    text = str(error)
    assert "\n" not in text
    for part in parts:
        assert part in text


def test_a_new_run_opens_as_what_it_was_made_as(run: RunDirectory) -> None:
    assert RunDirectory.open(run.path) == run
    assert run.config == CONFIG
    assert run.finished_trials() == ()
    assert {path.name for path in run.path.iterdir()} == {"config.toml", "recipe.toml"}, (
        "looking changed it"
    )


def test_a_run_is_made_with_the_directories_above_it(tmp_path: Path) -> None:
    assert RunDirectory.create(tmp_path / "a" / "b" / "run", CONFIG).path.is_dir()


def test_a_directory_that_exists_is_no_new_run(run: RunDirectory) -> None:
    before = (run.path / "config.toml").read_bytes()
    with pytest.raises(RunError) as caught:
        RunDirectory.create(run.path, SearchConfig(trials=99))
    assert_one_line(caught.value, str(run.path), "--resume")
    assert (run.path / "config.toml").read_bytes() == before


def test_a_run_cannot_be_made_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError) as caught:
        RunDirectory.create(tmp_path / "file" / "run", CONFIG)
    assert_one_line(caught.value, "file/run")


@pytest.mark.parametrize("made", [False, True], ids=["absent", "empty"])
def test_a_directory_without_a_configuration_is_no_run(tmp_path: Path, made: bool) -> None:
    path = tmp_path / "other"
    if made:
        path.mkdir()
    with pytest.raises(RunError) as caught:
        RunDirectory.open(path)
    assert_one_line(caught.value, str(path), "config.toml", "tvm-mnas search")


@pytest.mark.parametrize(
    "content", [b"\x00\xff garbage", b"trials =", b"trials = 'many'\n", b"colour = 'red'\n"]
)
def test_a_damaged_configuration_is_named(run: RunDirectory, content: bytes) -> None:
    (run.path / "config.toml").write_bytes(content)
    with pytest.raises(TvmMnasError) as caught:
        RunDirectory.open(run.path)
    assert_one_line(caught.value, str(run.path / "config.toml"))


def test_a_changed_run_is_changed_on_disk(run: RunDirectory) -> None:
    longer = run.changed({"trials": 7, "jobs": 1})
    assert (longer.config.trials, longer.config.jobs) == (7, 1)
    assert RunDirectory.open(run.path).config == longer.config
    assert longer.config.seed == CONFIG.seed
    assert {path.name for path in run.path.iterdir()} == {"config.toml", "recipe.toml"}


@pytest.mark.parametrize("settings", [{"trials": 2}, {"trials": 0}, {"jobs": -1}])
def test_a_change_that_breaks_a_rule_changes_nothing(
    run: RunDirectory, settings: dict[str, int]
) -> None:
    with pytest.raises(ConfigError) as caught:
        run.changed(settings)
    assert_one_line(caught.value, str(*settings.values()))
    assert RunDirectory.open(run.path).config == CONFIG


HOLD = """
import sys, time
from pathlib import Path
from tvm_mnas.search.run import RunDirectory
with RunDirectory.open(Path(sys.argv[1])).lock():
    print("locked", flush=True)
    time.sleep(60)
"""


@contextmanager
def another_process_at(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Have another process hold the run's lock; it is killed at the end, if not before."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_run_is_worked_on_by_one_process(searched: RunDirectory) -> None:
    with another_process_at(searched.path) as process:
        with pytest.raises(RunError, match="another one has") as caught, searched.lock():
            pass
        assert_one_line(caught.value, str(searched.path))
        # A report only looks.
        assert len(searched.finished_trials()) == 3
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        with searched.lock():
            assert len(searched.trials(searched.study())) == 3


def test_a_run_is_locked_once_within_a_process_too(run: RunDirectory) -> None:
    with run.lock(), pytest.raises(RunError), run.lock():
        pass
    with run.lock():
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_told_as_such(
    run: RunDirectory, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(file: object, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(RunError, match="file system that can lock files") as caught, run.lock():
        pass
    assert os.strerror(number) in str(caught.value)


def test_a_file_system_without_links_keeps_a_study(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "symlink", refuse)
    monkeypatch.setattr(os, "link", refuse)
    with run.lock():
        study = run.study()
        study.set_user_attr("written", True)
    assert RunDirectory.open(run.path).study().user_attrs["written"] is True


def test_the_lock_is_let_go_of_when_work_fails(run: RunDirectory) -> None:
    with pytest.raises(KeyboardInterrupt), run.lock():
        raise KeyboardInterrupt
    with run.lock():
        pass


def test_a_run_that_cannot_be_written_is_named(run: RunDirectory) -> None:
    (run.path / "run.lock").mkdir()
    with pytest.raises(RunError) as caught, run.lock():
        pass
    assert_one_line(caught.value, str(run.path))


@pytest.mark.parametrize("relative", [False, True])
def test_the_lock_of_a_killed_optuna_is_taken_away(
    searched: RunDirectory, relative: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if relative:
        # Then the link, which is relative to its own directory, leads nowhere.
        monkeypatch.chdir(searched.path.parent)
        searched = RunDirectory.open(Path(searched.path.name))
    stale = searched.path / "study.journal.lock"
    os.symlink(str(searched.journal), stale)
    # Optuna sleeps between its looks at a lock that another process seems to hold.
    monkeypatch.setattr(
        time, "sleep", lambda seconds: pytest.fail("it waits for a process that is gone")
    )
    assert len(searched.finished_trials()) == 3, "looking needs no lock"
    assert stale.is_symlink()
    with searched.lock():
        assert not stale.is_symlink()
        searched.study().ask()


def test_looking_at_a_study_changes_nothing(searched: RunDirectory) -> None:
    before = searched.journal.read_bytes()
    assert len(searched.finished_trials()) == 3
    assert searched.study().metric_names == ["accuracy", "latency_ms"]
    assert searched.journal.read_bytes() == before


def test_finished_trials_are_what_was_stored(searched: RunDirectory) -> None:
    first, failed, again = searched.finished_trials()
    objectives = first.evaluation.objectives
    assert objectives is not None
    assert first.reward == searched.reward(*objectives)
    assert (failed.reward, failed.repeats) == (None, None)
    assert failed.evaluation.failure is not None
    assert (again.number, again.repeats, again.reward) == (2, 0, first.reward)
    assert again.evaluation == first.evaluation


def test_a_trial_that_is_running_is_not_finished(searched: RunDirectory) -> None:
    with searched.lock():
        searched.study().ask()
    assert [record.number for record in searched.finished_trials()] == [0, 1, 2]


def test_a_torn_last_line_is_read_over_and_then_cut_off(searched: RunDirectory) -> None:
    whole = searched.journal.read_bytes()
    with searched.lock():
        searched.study().ask()
    torn = searched.journal.read_bytes()[:-5]
    assert torn.startswith(whole)
    searched.journal.write_bytes(torn)
    assert len(searched.finished_trials()) == 3
    assert searched.journal.read_bytes() == torn, "looking changed it"
    with searched.lock():
        assert searched.journal.read_bytes() == whole
        assert searched.study().ask().number == 3
    # Written on in the torn line, this would be the damage that nothing can read.
    assert len(searched.study().get_trials()) == 4


def test_a_journal_that_is_nothing_but_a_torn_line_starts_anew(run: RunDirectory) -> None:
    run.journal.write_bytes(b'{"op_code":0,"worker_id":"a')
    with run.lock():
        assert run.study().ask().number == 0


@pytest.mark.parametrize("name", ["blank", "blank end", "fused", "fused and torn", "spaces"])
def test_blank_and_fused_lines_are_mended_and_nothing_is_lost(
    searched: RunDirectory, name: str
) -> None:
    whole = searched.journal.read_bytes()
    before = [record.number for record in searched.finished_trials()]
    lines = whole.split(b"\n")[:-1]
    content = {
        "blank": b"\n".join([*lines[:3], b"", b"", *lines[3:], b""]),
        "blank end": whole + b"\n\n",
        "fused": whole.replace(b"}\n{", b"}{", 2),
        "fused and torn": whole.replace(b"}\n{", b"}{", 1) + lines[-1][:-3],
        "spaces": b"\n".join([*lines[:5], b"  \t", *lines[5:], b""]),
    }[name]
    searched.journal.write_bytes(content)
    if "blank" in name or name == "spaces":
        with pytest.raises(RunError, match=r"line \d+ is blank, which `tvm-mnas search --resume"):
            searched.finished_trials()
    with searched.lock():
        assert searched.journal.read_bytes() == whole
        assert [record.number for record in searched.trials(searched.study())] == before


def test_a_journal_cut_at_any_byte_of_its_last_line_goes_on(searched: RunDirectory) -> None:
    whole = searched.journal.read_bytes()
    start = whole[:-1].rfind(b"\n") + 1
    for length in range(start, len(whole), 7):
        searched.journal.write_bytes(whole[:length])
        with searched.lock():
            assert searched.journal.read_bytes() == whole[:start]
            assert searched.study().get_trials(deepcopy=False)


def damaged_journals() -> list[Any]:
    return [
        pytest.param(lambda old: b"garbage", id="garbage"),
        pytest.param(lambda old: b"garbage\n", id="a line of garbage"),
        pytest.param(lambda old: os.urandom(4096), id="noise"),
        pytest.param(lambda old: old + b"garbage\n", id="a last line of garbage"),
        pytest.param(lambda old: b"garbage\n" + old, id="a first line of garbage"),
        pytest.param(lambda old: old.replace(b'"user_attr"', b'"us\n', 1), id="a cut"),
        pytest.param(lambda old: old.replace(b'"op_code"', b'"op"'), id="other keys"),
        pytest.param(lambda old: b"[]\n", id="another value"),
        pytest.param(lambda old: old.split(b"\n", 1)[1], id="no beginning"),
        pytest.param(lambda old: old.replace(b"tvm-mnas", b"somebody"), id="another study"),
    ]


@pytest.mark.parametrize("damage", damaged_journals())
def test_a_damaged_journal_is_refused_and_kept(searched: RunDirectory, damage: Any) -> None:
    content = damage(searched.journal.read_bytes())
    searched.journal.write_bytes(content)
    with pytest.raises(RunError) as caught, searched.lock():
        searched.trials(searched.study())
    assert_one_line(caught.value, str(searched.journal), "tvm-mnas search")
    assert searched.journal.read_bytes() == content, "what could be restored from is overwritten"


DAMAGES = {
    "a number": lambda stored: 5,
    "a text": lambda stored: "good",
    "a list": lambda stored: [stored],
    "no effort": lambda stored: {k: v for k, v in stored.items() if k != "effort"},
    "unknown effort": lambda stored: stored | {"effort": {"luck": 1}},
    "no notation": lambda stored: stored | {"architecture": 5},
    "another notation": lambda stored: stored | {"architecture": "i32:nothing"},
    "nothing found": lambda stored: stored | {"accuracy": None},
    "both": lambda stored: stored | {"failure": {"stage": "training", "error": "E", "reason": "r"}},
    "no samples": lambda stored: stored | {"latency": stored["latency"] | {"samples_ms": []}},
    "another median": lambda stored: stored | {"latency": stored["latency"] | {"latency_ms": 9}},
    "too accurate": lambda stored: stored | {"accuracy": stored["accuracy"] | {"top1": 1.5}},
    "accuracy of a text": lambda stored: stored | {"accuracy": "high"},
    "latency of a list": lambda stored: stored | {"latency": [1]},
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_evaluation_names_its_trial(run: RunDirectory, name: str) -> None:
    (architecture,) = sample_architectures(1)
    stored = make_success(0, architecture, 0.8, make_latency(0.05)).evaluation.to_json()
    assert Evaluation.from_json(json.loads(json.dumps(stored))).to_json() == stored
    with run.lock():
        study = run.study()
        trial = study.ask()
        trial.set_user_attr(EVALUATION_ATTRIBUTE, DAMAGES[name](stored))
        study.tell(trial, (0.8, 0.05))
    with pytest.raises(RunError) as caught:
        run.finished_trials()
    assert_one_line(caught.value, str(run.path), "trial 0")


def test_a_finished_trial_without_an_evaluation_is_named(run: RunDirectory) -> None:
    with run.lock():
        study = run.study()
        study.tell(study.ask(), (0.8, 0.05))
    with pytest.raises(RunError) as caught:
        run.finished_trials()
    assert_one_line(caught.value, str(run.path), "trial 0")
