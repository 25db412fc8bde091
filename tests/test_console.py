"""How results look: figures with their units, lines that say what happened, JSON that is nothing but JSON."""

from __future__ import annotations

import io
import json
import time
from dataclasses import replace

import pytest
from rich.console import Console

from tests.report.runs import make_failure, make_latency, make_success, sample_architectures
from tvm_mnas import console
from tvm_mnas.console import (
    Column,
    SearchDisplay,
    SearchTally,
    format_ms,
    print_json,
    print_table,
    trial_line,
    watch_table,
)
from tvm_mnas.evaluation.results import Effort

A, B = sample_architectures(2)
COLUMNS = (Column("name", "name", number=False), Column("latency ms", "latency_ms"))
ROWS = [{"name": "first", "latency_ms": 0.0612345, "more": 1}, {"name": "second", "more": [2]}]


@pytest.fixture
def messages(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What goes to standard error, as a pipe gets it."""
    text = io.StringIO()
    monkeypatch.setattr(console, "MESSAGES", Console(file=text, highlight=False, soft_wrap=True))
    return text


@pytest.fixture
def output(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    text = io.StringIO()
    monkeypatch.setattr(console, "OUTPUT", Console(file=text, highlight=False, soft_wrap=True))
    return text


@pytest.mark.parametrize(
    ("latency_ms", "text"),
    [
        (0.0612345, "0.0612 ms"),
        (0.5, "0.5 ms"),
        (78.25, "78.2 ms"),
        (99.96, "100 ms"),
        (1234.5, "1234 ms"),
        (12345678.0, "12345678 ms"),
    ],
)
def test_a_latency_has_three_digits_and_its_unit(latency_ms: float, text: str) -> None:
    assert format_ms(latency_ms) == text


def test_a_table_shows_every_row_and_a_dash_for_nothing(output: io.StringIO) -> None:
    print_table("Pareto front", COLUMNS, ROWS, as_json=False)
    lines = output.getvalue().splitlines()
    assert "Pareto front" in lines[0]
    assert "name" in output.getvalue()
    assert "latency ms" in output.getvalue()
    (first,) = (line for line in lines if "first" in line)
    assert "0.06123" in first
    (second,) = (line for line in lines if "second" in line)
    assert second.replace("second", "").strip(" │|") == "-"


def test_a_table_as_json_has_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("Pareto front", COLUMNS, ROWS, as_json=True)
    printed = capsys.readouterr()
    assert json.loads(printed.out) == ROWS
    assert printed.err == ""


def test_json_is_one_document_with_an_end(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"best": None, "text": "[bold]ä[/bold]"})
    printed = capsys.readouterr().out
    assert json.loads(printed) == {"best": None, "text": "[bold]ä[/bold]"}
    assert printed.endswith("}\n")


def test_a_trial_is_a_line_with_its_figures() -> None:
    line = trial_line(make_success(12, A, 0.8125, make_latency(0.0612)))
    assert "\n" not in line
    for part in ("trial   12", A.id, "81.25%", "0.0612 ms", "reward 0.8"):
        assert part in line
    assert "EMULATED" not in line


def test_a_trial_met_before_says_where() -> None:
    line = trial_line(make_success(12, A, 0.8125, make_latency(0.0612), repeats=3))
    assert "(met in trial 3)" in line
    assert "81.25%" in line


def test_a_failed_trial_says_why_and_has_no_figures() -> None:
    line = trial_line(make_failure(12, A, "measuring", "no answer in 60 s"))
    assert "failed in measuring: no answer in 60 s" in line
    assert "reward" not in line
    assert "latency" not in line


def test_a_time_on_an_emulator_is_marked() -> None:
    line = trial_line(make_success(12, A, 0.8125, make_latency(900.0, emulated=True)))
    assert "EMULATED, not a latency" in line


def test_a_time_with_untuned_kernels_in_it_is_marked() -> None:
    line = trial_line(make_success(12, A, 0.8125, make_latency(0.0612, tuned_share=0.969)))
    assert "3.1% of it in untuned kernels" in line
    assert "untuned" not in trial_line(
        make_success(12, A, 0.8125, make_latency(0.0612, tuned_share=1.0))
    )


def test_a_time_of_a_device_that_changed_is_marked() -> None:
    line = trial_line(make_success(12, A, 0.8, make_latency(0.0612, reference_change=0.5)))
    assert "UNSTABLE DEVICE: the device's reference kernel takes 50.0% longer than before" in line
    line = trial_line(make_success(12, A, 0.8, make_latency(0.0612, reference_change=0.01)))
    assert "UNSTABLE DEVICE" not in line


def test_a_search_through_a_pipe_is_a_line_per_trial(messages: io.StringIO) -> None:
    with SearchDisplay(3) as display:
        display.stage("training", 0, 240)
        display.stage("training", 120, 240)
        display.trial(make_success(0, A, 0.8, make_latency(0.06)))
        display.trial(make_failure(1, B, "training", "[red]the loss[/red] is NaN"))
        display.note("finalist [0] failed")
    lines = messages.getvalue().splitlines()
    assert len(lines) == 3
    assert lines[0] == trial_line(make_success(0, A, 0.8, make_latency(0.06)))
    assert lines[1].endswith("[red]the loss[/red] is NaN"), "a reason is no markup"
    assert lines[2] == "finalist [0] failed"


def test_a_search_through_a_pipe_says_now_and_then_how_far_it_is(messages: io.StringIO) -> None:
    def lines_once(count: int) -> list[str]:
        end = time.monotonic() + 30
        while len(messages.getvalue().splitlines()) < count and time.monotonic() < end:
            time.sleep(0.01)
        return messages.getvalue().splitlines()

    with SearchDisplay(28, finished=4, every_s=0.1) as display:
        assert lines_once(1)[0] == "... starting; 4 of 28 trials after 0:00:00"
        display.stage("training", 120, 240)
        count = len(lines_once(0))
        assert lines_once(count + 2)[-1].startswith("... training 120 of 240; 4 of 28 trials after")
        display.trial(make_success(4, A, 0.8, make_latency(0.06)))
        count = len(lines_once(0))
        assert "; 5 of 28 trials after" in lines_once(count + 2)[-1]
    ended = messages.getvalue()
    time.sleep(0.3)
    assert messages.getvalue() == ended, "nothing is told of a search that ended"


def test_a_search_in_a_terminal_shows_the_whole_and_the_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = io.StringIO()
    terminal = Console(file=text, force_terminal=True, width=120, color_system=None)
    monkeypatch.setattr(console, "MESSAGES", terminal)
    with SearchDisplay(28, finished=4) as display:
        display.stage("training", 120, 240)
        display.trial(make_success(4, A, 0.8, make_latency(0.06)))
        display.trial(make_success(5, B, 0.7, make_latency(0.06)))
        display.trial(make_failure(6, B))
    shown = text.getvalue()
    for part in ("training", "120/240", "7/28", "best reward 0.8000", A.id):
        assert part in shown


def test_a_display_tells_records_devices_and_what_is_left() -> None:
    tally = SearchTally(total=20, finished=10)
    assert tally.words(5.0) == []
    effort = Effort(training_s=4.0, kernels=10, kernels_tuned=4)
    first = make_success(10, A, 0.8, make_latency(0.06), effort=effort)
    tally.add(first)
    tally.add(make_success(11, A, 0.8, make_latency(0.06), repeats=10, effort=effort))
    tally.add(make_failure(12, B))
    second = make_latency(0.05, device_key="pixel")
    tally.add(make_success(13, B, 0.9, second, effort=replace(effort, kernels_tuned=0)))
    best, records, devices, left = tally.words(40.0)
    assert best.startswith("best reward 0.9116 (trial 13: 90.00%, 0.05 ms)")
    assert records == "80% of kernels from records", "a candidate that was met before counts once"
    assert devices == "measured on local 1, pixel 1"
    assert left == "about 0:01:00 left", "ten seconds a trial, six to go"


def test_work_without_trials_shows_none(messages: io.StringIO) -> None:
    with SearchDisplay(every_s=0.05) as display:
        display.stage("trainings", 3, 8)
        end = time.monotonic() + 30
        while "trainings" not in messages.getvalue() and time.monotonic() < end:
            time.sleep(0.01)
    assert "... trainings 3 of 8; after 0:00:00" in messages.getvalue()


def test_a_watched_table_is_made_anew_until_interrupted(output: io.StringIO) -> None:
    made: list[int] = []

    def rows() -> list[dict[str, object]]:
        made.append(len(made))
        if len(made) > 2:
            raise KeyboardInterrupt
        return [{"n": f"row-{made[-1]}"}]

    watch_table("Watched", (Column("n", "n"),), rows, every_s=0.0)
    assert made == [0, 1, 2]
    assert "row-1" in output.getvalue()
