"""Runs laid over each other: by one reward, with what differs between them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.report.runs import make_latency, make_run, make_success, sample_architectures
from tests.report.test_html import Page
from tvm_mnas.config import SearchConfig
from tvm_mnas.errors import ConfigError
from tvm_mnas.report.web.compare import build_comparison, summarize
from tvm_mnas.report.web.page import RunFacts
from tvm_mnas.search.pareto import Point, hypervolume
from tvm_mnas.search.reward import Reward

A, B = sample_architectures(2)


def facts(title: str, *, target_ms: float = 0.06, seed: int = 0, count: int = 30) -> RunFacts:
    config = SearchConfig(target_latency_ms=target_ms, seed=seed)
    return RunFacts(
        title=title,
        records=make_run(count, seed=seed),
        reward=Reward.soft(target_ms),
        config=config,
    )


def test_all_runs_are_judged_by_the_first_one_s_reward() -> None:
    records = [
        make_success(0, A, 0.9, make_latency(0.2)),
        make_success(1, B, 0.8, make_latency(0.05)),
    ]
    # A reward that cares of latency, and one that does not.
    hard = replace(facts("hard"), records=records, reward=Reward.hard(0.06))
    free = replace(facts("free"), records=records, reward=Reward(0.06, alpha=0.0, beta=0.0))
    assert [one.best_trial for one in summarize([hard, free])] == [1, 1]
    assert [one.best_trial for one in summarize([free, hard])] == [0, 0]
    (one, _) = summarize([hard, free])
    assert one.best_reward == hard.reward(0.8, 0.05)
    volume = hypervolume([Point(0.8, 0.05)], reference=Point(0.0, 0.12))
    assert one.hypervolume_percent == pytest.approx(100 * volume / 0.12)


def test_the_page_has_both_runs_and_the_settings_that_differ() -> None:
    page = Page(build_comparison([facts("first"), facts("second", seed=3)]))
    assert "first / second" in page.text
    assert {"run-0", "run-1"} <= {one.get("class") for one in page.named("circle")}
    assert "Settings that differ" in page.text
    assert "0   |   3" in page.text
    same = Page(build_comparison([facts("first"), facts("second")]))
    assert "All settings are equal." in same.text


def test_runs_that_do_not_compare_are_called_out() -> None:
    other = replace(
        facts("second"), records=[make_success(0, A, 0.7, make_latency(0.05, device_key="x"))]
    )
    assert "do not compare" in Page(build_comparison([facts("first"), other])).text
    assert "do not compare" not in Page(build_comparison([facts("first"), facts("second")])).text
    space = replace(facts("second"), config=SearchConfig(space="mnasnet"))
    assert "different spaces: mnasnet, quickstart" in build_comparison([facts("first"), space])


def test_an_empty_run_has_its_place() -> None:
    empty = replace(facts("empty"), records=[])
    page = Page(build_comparison([empty, empty]))
    assert "No candidate was measured yet." in page.text
    assert summarize([empty, facts("full")])[0].best_reward is None


@pytest.mark.parametrize("count", [1, 7])
def test_one_run_and_too_many_are_refused(count: int) -> None:
    with pytest.raises(ConfigError, match=f"2 to 6 runs are laid over each other, not {count}"):
        build_comparison([facts("a")] * count)
