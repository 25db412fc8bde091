"""The parts of one candidate's way, and what of them is shown."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import ModuleType

Script = Callable[[str], ModuleType]


def test_the_table_has_the_median_without_the_first_repetition(script: Script) -> None:
    compile_time = script("compile_time")
    times = [dict.fromkeys(compile_time.STAGES, float(seconds)) for seconds in (1, 5, 3)]
    first = dict.fromkeys(compile_time.STAGES, 100.0)
    rows = compile_time.table(times, first).splitlines()[2:]
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows] == [
        *compile_time.STAGES,
        "in all",
    ]
    assert rows[0] == "| build network | 3.000 | 1.000 | 5.000 | 100.000 |"
    assert rows[-1] == "| in all | 15.000 | 5.000 | 25.000 | 500.000 |"


def test_a_stage_takes_as_long_as_its_work_and_hands_on_its_result(script: Script) -> None:
    watch = script("compile_time").Stopwatch()
    started = time.perf_counter()
    assert watch.time("sleep", lambda: time.sleep(0.02) or "done") == "done"
    took_s = time.perf_counter() - started
    assert set(watch.times_s) == {"sleep"}
    assert 0.02 <= watch.times_s["sleep"] <= took_s
