"""Studies in a database: as in a journal, over a restart of the server, and with one driver at a time."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from tests.search.study.postgres import Postgres, find_programs, running_postgres
from tests.search.test_loop import Streaming, Synthetic, assert_complete, go_on, trials_of
from tvm_mnas.config import SearchConfig
from tvm_mnas.errors import ConfigError, RunError
from tvm_mnas.search.run import RunDirectory
from tvm_mnas.search.study import database, lease
from tvm_mnas.search.study.database import check_storage, database_storage
from tvm_mnas.search.study.lease import DRIVER, leased

PROGRAMS = find_programs()
needs_postgres = pytest.mark.skipif(PROGRAMS is None, reason="no PostgreSQL, and no pgserver")


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    assert PROGRAMS is not None
    with running_postgres(PROGRAMS) as server:
        yield server


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=needs_postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'studies.db'}"
    server: Postgres = request.getfixturevalue("postgres")
    return server.url


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "_SETTLE_S", 0.01)
    monkeypatch.setattr(database, "_RETRY_S", 0.1)
    monkeypatch.setattr(lease, "_LOOK_S", 0.05)
    monkeypatch.setattr(lease, "RENEWED_S", 1.0)
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def new_run(
    path: Path, url: str = "", *, trials: int = 14, lag: int = 0, study: str = ""
) -> RunDirectory:
    config = SearchConfig(
        space="quickstart",
        algorithm="ppo",
        trials=trials,
        batch=4,
        lag=lag,
        target_latency_ms=80.0,
        storage=url,
        study=study,
    )
    return RunDirectory.create(path, config)


def told(path: Path) -> list[dict[str, Any]]:
    """What a search decided and found; a database has its numbers as floats."""
    return json.loads(json.dumps([{**t, "state": t["state"].name} for t in trials_of(path)]))


@pytest.mark.parametrize("lag", [0, 1])
def test_a_search_is_the_same_as_in_a_journal(url: str, lag: int, tmp_path: Path) -> None:
    run = new_run(tmp_path / "database", url, lag=lag)
    go_on(run.path, Streaming)
    assert_complete(run.path, 14)
    assert not run.journal.exists()
    go_on(new_run(tmp_path / "journal", lag=lag).path)
    assert told(run.path) == told(tmp_path / "journal")
    assert RunDirectory.open(run.path).controller.is_file()


def test_a_search_that_was_interrupted_goes_on_in_its_database(url: str, tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", url)

    def interrupt(record: object) -> None:
        if getattr(record, "number", 0) == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go_on(run.path, on_trial=interrupt)
    assert 0 < len(RunDirectory.open(run.path).finished_trials()) < 14
    go_on(run.path)
    assert_complete(run.path, 14)
    go_on(new_run(tmp_path / "journal").path)
    assert told(run.path) == told(tmp_path / "journal")


def test_several_studies_share_a_database_and_each_has_its_name(url: str, tmp_path: Path) -> None:
    first, second = new_run(tmp_path / "a", url), new_run(tmp_path / "b", url)
    assert first.study_name != second.study_name
    assert first.study_name.startswith("a-")
    go_on(first.path)
    assert len(RunDirectory.open(first.path).finished_trials()) == 14
    assert RunDirectory.open(second.path).finished_trials() == ()
    named = new_run(tmp_path / "c", url, study=f"mine-{tmp_path.name}")
    go_on(named.path)
    with pytest.raises(RunError, match="a study of its own"):
        new_run(tmp_path / "d", url, study=f"mine-{tmp_path.name}")
    assert not (tmp_path / "d").exists()


def test_two_drivers_of_one_study_are_refused(url: str, tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", url)
    # A copy on another machine, where the lock of the directory does not reach.
    (tmp_path / "copy").mkdir()
    for name in ("config.toml", "recipe.toml"):
        (tmp_path / "copy" / name).write_bytes((run.path / name).read_bytes())
    with run.lock(), pytest.raises(RunError, match="one process works on a study at a time"):
        go_on(tmp_path / "copy")
    go_on(tmp_path / "copy")
    assert_complete(tmp_path / "copy", 14)


def study_in(url: str, name: str) -> optuna.Study:
    return optuna.create_study(storage=database_storage(url), study_name=name, load_if_exists=True)


@pytest.mark.parametrize("signs", [True, False])
def test_who_signs_again_has_the_study_and_who_is_silent_has_not(
    signs: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "SILENT_S", 1.0)
    study = study_in(f"sqlite:///{tmp_path / 'a.db'}", "study")
    study.set_user_attr(DRIVER, json.dumps({"owner": "elsewhere:17", "sign": 1}))
    ended = threading.Event()

    def sign() -> None:
        for number in range(2, 100):
            if ended.wait(0.2):
                return
            study.set_user_attr(DRIVER, json.dumps({"owner": "elsewhere:17", "sign": number}))

    thread = threading.Thread(target=sign)
    if signs:
        thread.start()
        with (
            pytest.raises(RunError, match="elsewhere:17 has the study"),
            leased(study, where="the study"),
        ):
            pass
        ended.set()
        thread.join()
        return
    with leased(study, where="the study"):
        assert json.loads(study.user_attrs[DRIVER])["owner"].endswith(f":{os.getpid()}")
    assert study.user_attrs[DRIVER] is None


def test_a_process_of_this_machine_that_was_killed_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "SILENT_S", 60.0)
    study = study_in(f"sqlite:///{tmp_path / 'a.db'}", "study")
    study.set_user_attr(DRIVER, json.dumps({"owner": f"{socket.gethostname()}:4194300", "sign": 1}))
    began = time.monotonic()
    with leased(study, where="the study"):
        pass
    assert time.monotonic() - began < 10


def test_of_two_that_come_at_once_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "_SETTLE_S", 0.5)
    url = f"sqlite:///{tmp_path / 'a.db'}"
    study_in(url, "study")
    held: list[str] = []
    refused: list[str] = []

    def take(owner: str) -> None:
        try:
            with leased(study_in(url, "study"), where="the study", owner=owner):
                held.append(owner)
                time.sleep(1.5)
        except RunError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=take, args=(f"elsewhere:{n}",)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(held), len(refused)) == (1, 1)


def test_a_lease_is_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEWED_S", 0.05)
    study = study_in(f"sqlite:///{tmp_path / 'a.db'}", "study")
    with leased(study, where="the study"):
        time.sleep(0.5)
        assert json.loads(study.user_attrs[DRIVER])["sign"] > 1


@needs_postgres
def test_a_search_waits_for_a_server_that_is_restarted(
    postgres: Postgres, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = new_run(tmp_path / "run", postgres.url, trials=40, lag=1)
    begun, done = threading.Event(), threading.Event()
    stops = 0

    class Slow(Synthetic):
        def evaluation(self, candidate: Any) -> Any:
            begun.set()
            time.sleep(0.05)
            return super().evaluation(candidate)

    def restart() -> None:
        nonlocal stops
        # A search that finds no database at its start says so and ends.
        begun.wait()
        while not done.wait(0.6):
            postgres.stop()
            stops += 1
            time.sleep(0.4)
            postgres.start()

    thread = threading.Thread(target=restart)
    with caplog.at_level(logging.WARNING):
        thread.start()
        try:
            go_on(run.path, Slow)
        finally:
            begun.set()
            done.set()
            thread.join()
    assert stops >= 2
    assert "the database is out of reach, waits for it" in caplog.text
    assert_complete(run.path, 40)
    go_on(new_run(tmp_path / "journal", trials=40, lag=1).path)
    assert told(run.path) == told(tmp_path / "journal")


def test_a_server_that_stays_away_ends_the_search_with_what_it_said(
    postgres: Postgres, tmp_path: Path
) -> None:
    kept = database_storage(postgres.url, wait_s=0.3)
    postgres.stop()
    try:
        began = time.monotonic()
        with pytest.raises(RunError, match="stayed out of reach for 0 s"):
            kept.get_all_studies()
        assert time.monotonic() - began < 20
        with pytest.raises(RunError, match=r"cannot reach the database .*refused"):
            database_storage(postgres.url)
    finally:
        postgres.start()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("studies", "is none; for example --storage postgresql://"),
        ("postgresql://me:secret@db/studies", "leave it out of --storage"),
    ],
)
def test_what_is_no_url_or_has_a_password_is_refused(text: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected) as told:
        check_storage(text)
    assert "secret" not in str(told.value)


def test_a_kind_of_database_that_nobody_knows_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot use the database"):
        database_storage("oracular://db/studies")


def test_a_trial_that_was_told_is_not_told_again_after_a_lost_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server stores the trial, and dies before it says so."""
    import sqlalchemy
    from optuna.storages import RDBStorage

    url = f"sqlite:///{tmp_path / 'a.db'}"
    study = study_in(url, "study")
    backend = study._storage._backend  # type: ignore[attr-defined]
    lost = sqlalchemy.exc.OperationalError("", None, Exception("server closed the connection"))
    original = {name: getattr(RDBStorage, name) for name in ("_create_new_trial",)}
    failures = iter([True, False])

    def create(self: Any, *arguments: Any) -> Any:
        made = original["_create_new_trial"](self, *arguments)
        if next(failures, False):
            raise lost
        return made

    monkeypatch.setattr(RDBStorage, "_create_new_trial", create)
    trial = study.ask()
    assert trial.number == 0
    assert backend.get_n_trials(study._study_id) == 1
    study.tell(trial, 1.0)
    assert [t.state for t in study.get_trials()] == [TrialState.COMPLETE]
