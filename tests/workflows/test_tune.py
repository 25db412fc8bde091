"""What `tvm-mnas tune` forecasts and tells, without a device."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tvm_mnas.compiler.core.kernel import Kernel
from tvm_mnas.compiler.records.store import RecordStore
from tvm_mnas.compiler.tuning.tuner import TunedKernel, TuningReport
from tvm_mnas.errors import ConfigError, SpaceError
from tvm_mnas.evaluation.results import format_duration
from tvm_mnas.evaluation.toolchain import ToolchainOptions
from tvm_mnas.report.text import forecast_line, tune_line
from tvm_mnas.workflows import tune
from tvm_mnas.workflows.tune import (
    Forecast,
    TuneResult,
    kernel_tunings,
    make_forecast,
    tune_model,
)

TARGET = '{"kind": "llvm", "num-cores": 1}'


@dataclass
class Heard:
    """A listener that remembers."""

    stages: list[tuple[str, int, int]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def stage(self, name: str, done: int, total: int) -> None:
        self.stages.append((name, done, total))

    def note(self, text: str) -> None:
        self.notes.append(text)


def _kernel(number: int, *, calls: int = 1) -> Kernel:
    structural_hash = str(number)
    from tvm_mnas.compiler.core.metaschedule import key_of

    return Kernel(
        name=f"kernel{number}",
        key=key_of(structural_hash),
        calls=calls,
        flops=100,
        moved_bytes=40,
        workload=f'["{structural_hash}", "code"]',
    )


def _record(time_s: float, trace: int = 0) -> str:
    return f'[[[], [{trace}]], [{time_s}], {{"kind": "llvm"}}, []]'


@pytest.fixture
def store(tmp_path: Path) -> RecordStore:
    return RecordStore.open(tmp_path / "store", target=TARGET)


def _add(store: RecordStore, kernel: Kernel, times_s: list[float], *, duration_s: float) -> None:
    records = [_record(time_s, number) for number, time_s in enumerate(times_s)]
    store.add(kernel, records, budget=len(records), failures={}, duration_s=duration_s)


def test_a_forecast_counts_what_is_still_to_measure(store: RecordStore) -> None:
    kernels = [_kernel(1), _kernel(2), _kernel(3)]
    _add(store, kernels[0], [1e-6, 2e-6], duration_s=4.0)
    _add(store, kernels[1], [1e-6] * 8, duration_s=8.0)
    forecast = make_forecast(kernels, store, directory=store.directory, schedules_per_kernel=8)
    # The first has two of eight, the second all, the third none; kernels took 2 s and 1 s a schedule.
    assert forecast == Forecast(3, 2, 6 + 8, pytest.approx(1.5))
    assert forecast.expected_s == pytest.approx(14 * 1.5)
    assert (
        "3 kernels, 2 of them lack schedules; 14 schedules to measure, about 21 s"
        in forecast_line(forecast)
    )


def test_without_a_history_the_time_is_not_guessed(store: RecordStore) -> None:
    forecast = make_forecast([_kernel(1)], store, directory=store.directory, schedules_per_kernel=8)
    assert forecast.expected_s is None
    assert "known after the first kernels" in forecast_line(forecast)


def test_nothing_to_tune_is_a_line() -> None:
    forecast = Forecast(23, 0, 0, 1.0)
    assert tune_line(TuneResult(1, forecast, (), 0, 1.0)) == forecast_line(forecast)
    assert forecast_line(forecast).startswith("nothing to tune: all of the 23 kernels")


def test_rows_are_sorted_by_their_share_and_those_without_a_time_come_last(
    store: RecordStore,
) -> None:
    kernels = [_kernel(1), _kernel(2, calls=3), _kernel(3)]
    _add(store, kernels[0], [4e-6], duration_s=1.0)
    _add(store, kernels[1], [2e-6, 9e-6], duration_s=1.0)
    report = TuningReport(
        (
            TunedKernel("kernel2", kernels[1].key, 2, 2.0, {}),
            TunedKernel("kernel3", kernels[2].key, 5, None, {"crash": 5}),
        ),
        3.0,
    )
    rows = kernel_tunings([kernels[2], *kernels[:2]], store, report)
    assert [row.kernel for row in rows] == ["kernel2", "kernel1", "kernel3"]
    assert [row.share_percent for row in rows] == [pytest.approx(60), pytest.approx(40), None]
    assert [row.measured for row in rows] == [2, 0, 5]
    result = TuneResult(1, Forecast(3, 2, 8, None), rows, 2, 3.0)
    assert result.measured == 7
    assert tune_line(result) == (
        "2 kernels tuned with 7 schedules in 3 s; failed: crash 5; "
        "1 kernels have no schedule that ran"
    )


@pytest.mark.parametrize(
    ("duration_s", "text"),
    [(0.4, "0 s"), (89.0, "89 s"), (90.0, "2 min"), (5000.0, "83 min"), (5400.0, "1.5 h")],
)
def test_durations_are_said_in_the_unit_that_fits(duration_s: float, text: str) -> None:
    assert format_duration(duration_s) == text


def test_the_time_is_told_once_after_the_first_kernels() -> None:
    heard = Heard()
    pace = tune._Pace(heard, 4, known=False)
    for done in (0, 4, 8, 12, 16):
        pace.show(done, 16)
    assert len(heard.notes) == 1
    assert heard.notes[0].startswith("8 schedules are left, about")
    assert heard.stages[-1] == ("tuning", 16, 16)
    silent = Heard()
    tune._Pace(silent, 4, known=True).show(8, 16)
    assert silent.notes == []


@pytest.mark.parametrize(
    ("model", "space", "said"),
    [(None, None, "neither is given"), ("net.onnx", "quickstart", "both net.onnx and --space")],
)
def test_a_model_and_a_space_exclude_each_other(
    model: str | None, space: str | None, said: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        _tune(model, space, tmp_path)
    assert "`tvm-mnas tune --space quickstart`" in str(caught.value)


@pytest.mark.parametrize(
    ("model", "space"), [("nonsense", None), ("absent.onnx", None), (None, "absent")]
)
def test_what_is_not_there_is_found_out_before_anything_is_written(
    model: str | None, space: str | None, tmp_path: Path
) -> None:
    with pytest.raises((ConfigError, SpaceError)):
        _tune(model, space, tmp_path)
    assert list(tmp_path.iterdir()) == []


def _tune(model: str | None, space: str | None, directory: Path) -> TuneResult:
    return tune_model(
        model,
        ToolchainOptions(
            records=directory / "records",
            schedules_per_kernel=2,
            seed=0,
        ),
        space=space,
        device="local",
        observer=Heard(),
        on_forecast=lambda _: None,
    )
