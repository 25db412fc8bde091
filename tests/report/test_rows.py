"""Rows: who is in the Pareto front, what counts once, how failures and effort add up."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

from tests.report.runs import (
    REWARD,
    make_failure,
    make_latency,
    make_run,
    make_success,
    sample_architectures,
)
from tvm_mnas.evaluation.results import Effort
from tvm_mnas.models.cost import count_cost
from tvm_mnas.report.rows import (
    EffortSummary,
    candidate_row,
    candidate_rows,
    effort_rows,
    effort_summary,
    failure_rows,
    forecast_latency,
    kernel_rows,
    pareto_rows,
    provenance_rows,
)
from tvm_mnas.report.text import latency_forecast_line
from tvm_mnas.report.trials import (
    Counts,
    best_record,
    count_trials,
    count_unstable,
    pareto_records,
    worst_untuned_percent,
)
from tvm_mnas.search.run import TrialRecord
from tvm_mnas.space.architecture import Architecture


def naive_pareto(records: list[TrialRecord]) -> set[int]:
    """Trials of distinct candidates that no other candidate dominates, by comparing all with all."""
    points = {
        r.number: r.evaluation.objectives
        for r in records
        if r.evaluation.objectives is not None and r.repeats is None
    }
    return {
        number
        for number, (accuracy, latency_ms) in points.items()
        if not any(
            other_accuracy >= accuracy
            and other_ms <= latency_ms
            and (other_accuracy, other_ms) != (accuracy, latency_ms)
            for other_accuracy, other_ms in points.values()
        )
    }


@pytest.mark.parametrize("seed", range(5))
def test_the_pareto_rows_are_the_naive_pareto_set_fastest_first(seed: int) -> None:
    records = make_run(40, seed=seed)
    rows = pareto_rows(records)
    assert {row.trial for row in rows} == naive_pareto(records)
    assert [row.latency_ms for row in rows] == sorted(row.latency_ms for row in rows)


def test_equal_points_are_all_in_the_pareto_set_and_repeats_are_not() -> None:
    first, second, third = sample_architectures(3)
    records = [
        make_success(0, first, 0.7, make_latency(0.05)),
        make_success(1, second, 0.7, make_latency(0.05)),
        make_success(2, first, 0.7, make_latency(0.05), repeats=0),
        make_success(3, third, 0.6, make_latency(0.05)),
    ]
    assert [record.number for record in pareto_records(records)] == [0, 1]
    assert count_trials(records) == Counts(trials=4, candidates=3, measured=3, failed=0)


def test_a_candidate_row_has_units_and_reads_back() -> None:
    (architecture,) = sample_architectures(1)
    record = make_success(7, architecture, 0.75, make_latency(0.05, spread=0.02))
    row = candidate_row(record)
    cost = count_cost(architecture)
    assert row.trial == 7
    assert row.accuracy_percent == 75.0
    assert row.accuracy_error_percent == pytest.approx(100 * (0.75 * 0.25 / 2000) ** 0.5)
    assert row.latency_ms == 0.05
    assert row.spread_percent == pytest.approx(2.0)
    assert row.first_latency_ms is None
    assert row.reward == REWARD(0.75, 0.05)
    assert (row.parameters, row.mult_adds) == (cost.parameters, cost.mult_adds)
    assert Architecture.parse(row.architecture) == architecture
    assert (row.noisy, row.emulated) == (False, False)


def test_a_row_of_an_emulated_time_says_so() -> None:
    (architecture,) = sample_architectures(1)
    record = make_success(0, architecture, 0.75, make_latency(0.05, emulated=True))
    assert candidate_row(record).emulated is True


def test_a_row_says_how_much_of_the_time_is_in_untuned_kernels() -> None:
    a, b = sample_architectures(2)
    records = [
        make_success(0, a, 0.75, make_latency(0.05, tuned_share=0.96)),
        make_success(1, b, 0.75, make_latency(0.05, tuned_share=1.0)),
    ]
    percents = [candidate_row(record).untuned_percent for record in records]
    assert percents == [pytest.approx(4.0), 0.0]
    assert worst_untuned_percent(records) == pytest.approx(4.0)
    assert worst_untuned_percent(records[1:]) == worst_untuned_percent([]) == 0.0


def test_a_failed_candidate_has_no_row_of_numbers() -> None:
    (architecture,) = sample_architectures(1)
    with pytest.raises(ValueError, match="trial 3"):
        candidate_row(make_failure(3, architecture))


def test_all_candidates_come_with_the_highest_reward_first() -> None:
    records = make_run(30)
    rows = candidate_rows(records)
    assert len(rows) == count_trials(records).measured
    assert [row.reward for row in rows] == sorted((r.reward for r in rows), reverse=True)


def test_the_best_is_the_one_asked_for_or_the_highest_reward() -> None:
    records = make_run(30)
    highest = max((r for r in records if r.reward is not None), key=lambda r: r.reward or 0.0)
    other = next(r for r in records if r.reward is not None and r.number != highest.number)
    failed = next(r for r in records if r.reward is None)
    assert best_record(records) is highest
    assert best_record(records, other.number) is other
    assert best_record(records, failed.number) is highest
    assert best_record([failed]) is None


def test_failures_are_grouped_by_stage_and_reason_with_counts() -> None:
    a, b, c, d = sample_architectures(4)
    records = [
        make_failure(0, a, "measuring", "no answer"),
        make_failure(1, b, "training", "the loss is NaN"),
        make_failure(2, c, "training", "out of memory"),
        make_failure(3, d, "training", "out of memory"),
        TrialRecord(4, make_failure(3, d, "training", "out of memory").evaluation, None, 3),
    ]
    rows = failure_rows(records)
    assert [(row.stage, row.reason, row.count, row.trials) for row in rows] == [
        ("training", "out of memory", 2, (2, 3)),
        ("training", "the loss is NaN", 1, (1,)),
        ("measuring", "no answer", 1, (0,)),
    ]
    assert count_trials(records) == Counts(trials=5, candidates=4, measured=0, failed=4)


def test_effort_adds_up_over_distinct_candidates() -> None:
    a, b = sample_architectures(2)
    latency = make_latency(0.05)
    first = Effort(training_s=3.0, tuning_s=5.0, kernels=10, kernels_tuned=8, schedules_measured=64)
    second = Effort(training_s=1.0, measuring_s=1.0, kernels=10)
    records = [
        make_success(0, a, 0.7, latency, effort=first),
        make_success(1, b, 0.7, latency, effort=second),
        make_success(2, a, 0.7, latency, effort=first, repeats=0),
    ]
    by_stage = {row.stage: row for row in effort_rows(records)}
    assert list(by_stage) == ["training", "tuning", "compiling", "measuring"]
    assert by_stage["training"].total_s == 4.0
    assert by_stage["training"].per_candidate_s == 2.0
    assert by_stage["tuning"].share_percent == 50.0
    assert effort_summary(records) == EffortSummary(
        candidates=2,
        total_s=10.0,
        kernels_tuned=8,
        kernels_tuned_per_candidate=4.0,
        tuning_s_per_candidate=2.5,
        kernels_reused_percent=60.0,
        schedules_measured=64,
    )
    assert [row.kernels_tuned for row in kernel_rows(records)] == [8, 0]


def test_provenance_keeps_what_must_not_be_compared_apart() -> None:
    a, b, c = sample_architectures(3)
    records = [
        make_success(0, a, 0.7, make_latency(0.05)),
        make_success(1, b, 0.7, make_latency(0.06, spread=0.5)),
        make_success(2, c, 0.7, make_latency(0.05, device_key="pixel1", emulated=True)),
    ]
    here, there = provenance_rows(records)
    assert (here.device, here.latencies, here.noisy) == ("local", 2, 1)
    assert here.samples == (5, 5)
    assert here.schedules_per_kernel == (8.0, 8.0)
    assert here.tuned_share_percent == (97.0, 97.0)
    assert here.worst_spread_percent == pytest.approx(50.0)
    assert (there.device, there.emulated) == ("pixel1", True)


def test_latencies_of_another_precision_are_kept_apart() -> None:
    """As when a run is resumed after its profile was changed."""
    a, b = sample_architectures(2)
    half = replace(make_latency(0.03), dtype="float16", accumulator="float32")
    records = [make_success(0, a, 0.7, make_latency(0.05)), make_success(1, b, 0.7, half)]
    rows = provenance_rows(records)
    assert [row.precision for row in rows] == ["float32", "float16, sums in float32"]


def test_latencies_of_a_device_that_changed_are_counted_and_told() -> None:
    a, b, c = sample_architectures(3)
    records = [
        make_success(0, a, 0.7, make_latency(0.05, reference_change=0.01)),
        make_success(1, b, 0.7, make_latency(0.06, reference_change=0.5)),
        make_success(2, c, 0.7, make_latency(0.06)),
    ]
    (row,) = provenance_rows(records)
    assert (row.unstable, count_unstable(records)) == (1, 1)
    assert row.reference_ms == pytest.approx((0.202, 0.3))
    assert provenance_rows(records[2:])[0].reference_ms is None
    warnings = [candidate_row(record).warnings for record in records]
    assert warnings == [(), ("the device's reference kernel takes 50.0% longer than before",), ()]


def test_a_forecast_finds_what_made_the_latencies_and_says_how_far_it_is_off() -> None:
    row = forecast_latency(make_run(20, kernel_times=True))
    assert row is not None
    assert row.candidates == count_trials(make_run(20)).measured
    assert row.predictor.kernels_factor == pytest.approx(1.25)
    # All have as many calls: what is the calls' and what the network's cannot be told apart.
    assert 20 * row.predictor.call_ms + row.predictor.network_ms == pytest.approx(0.01)
    assert row.predictor.megabyte_ms == pytest.approx(0, abs=1e-9)
    assert row.error_percent == pytest.approx(0, abs=1e-6)
    assert row.spearman == pytest.approx(1)
    # make_run gives every eleventh trial from the fifth on a wide spread; those here are trials 5 and 16.
    assert row.noisy == 2
    assert "2 of them measured with a spread" in latency_forecast_line(row)
    assert "which no reward used" in latency_forecast_line(row)
    assert "1.25 x the sum of its kernels" in latency_forecast_line(row)


def test_four_candidates_are_fitted_and_not_judged() -> None:
    records = [one for one in make_run(20, kernel_times=True) if one.reward is not None]
    row = forecast_latency(records[:4])
    assert row is not None
    assert (row.candidates, row.error_percent, row.spearman) == (4, None, None)
    assert "too few to tell" in latency_forecast_line(row)
    assert forecast_latency(records[:3]) is None


def test_candidates_of_an_older_run_without_moved_bytes_are_no_part_of_a_forecast() -> None:
    records = make_run(20, kernel_times=True)
    effort = replace(records[0].evaluation.effort, moved_bytes=None)
    older = replace(records[0], evaluation=replace(records[0].evaluation, effort=effort))
    assert forecast_latency([older, *records[1:]]) == forecast_latency(records[1:])


def test_there_is_no_forecast_of_what_does_not_compare() -> None:
    assert forecast_latency(make_run(20)) is None, "kernels' times are not known"
    assert forecast_latency(make_run(20, emulated=True, kernel_times=True)) is None
    there = make_run(9, seed=1, device_key="pixel1", kernel_times=True)
    assert forecast_latency([*make_run(20, kernel_times=True), *there]) is None


def test_every_row_is_plain_json() -> None:
    records = make_run(20)
    forecast = forecast_latency(make_run(20, kernel_times=True))
    assert forecast is not None
    assert "predictor" not in forecast.to_json(), "its coefficients stand beside the rest"
    for rows in (
        [forecast.to_json()],
        *(
            [asdict(row) for row in rows_of(records)]
            for rows_of in (
                pareto_rows,
                candidate_rows,
                failure_rows,
                effort_rows,
                kernel_rows,
                provenance_rows,
            )
        ),
        [asdict(effort_summary(records))],
    ):
        assert rows
        plain = json.loads(json.dumps(rows, allow_nan=False))
        assert [list(row) for row in plain] == [list(row) for row in rows]


def test_an_empty_run_has_empty_tables() -> None:
    assert pareto_rows([]) == candidate_rows([]) == failure_rows([]) == provenance_rows([]) == []
    assert count_trials([]) == Counts(0, 0, 0, 0)
    assert all(row.total_s == 0 for row in effort_rows([]))
    assert effort_summary([]).kernels_reused_percent is None


def test_the_devices_of_a_farm_are_counted_in_one_row() -> None:
    records = make_run(12)
    named = [
        replace(
            record,
            evaluation=replace(
                record.evaluation,
                latency=replace(record.evaluation.latency, device_name=f"board:{number % 2 + 1}"),
            ),
        )
        if record.evaluation.latency is not None
        else record
        for number, record in enumerate(records)
    ]
    (row,) = provenance_rows(named)
    assert set(row.by_device) == {"board:1", "board:2"}
    assert sum(row.by_device.values()) == row.latencies
    assert provenance_rows(records)[0].by_device == {}
