"""The page in a real browser: no error, nothing requested, and what can be touched works."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.report.runs import (
    make_failure,
    make_latency,
    make_run,
    make_success,
    sample_architectures,
)
from tvm_mnas.config import SearchConfig
from tvm_mnas.evaluation.kernel_times import KernelFacts
from tvm_mnas.report.rows import candidate_rows, pareto_rows
from tvm_mnas.report.trials import best_record
from tvm_mnas.report.web.compare import build_comparison
from tvm_mnas.report.web.page import RunFacts, build_page
from tvm_mnas.search.reward import Reward
from tvm_mnas.search.run import TrialRecord
from tvm_mnas.space.files import load_space

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: `make browser` installs it")

MOST_BYTES = 5_000_000
OPENS_WITHIN_MS = 2_000
_QUIET = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=list(_QUIET))
        yield opened
        opened.close()


def facts(records: list[TrialRecord]) -> RunFacts:
    """What a page is made of, kernels included."""
    kernel = KernelFacts(name="conv", key="k", calls=2, tuned_us=3.0, untuned_us=90.0, limit_us=2.5)
    return RunFacts(
        title="a run",
        records=records,
        reward=Reward.soft(0.06),
        config=SearchConfig(target_latency_ms=0.06),
        space=load_space("mnasnet"),
        kernels=(kernel,),
        accuracy_notes=("an accuracy's noise is 1%",),
    )


class Opened:
    """A page in a window, and what it said and asked for."""

    def __init__(
        self, browser: Browser, directory: Path, text: str, *, width: int = 1280, dark: bool = False
    ) -> None:
        file = directory / "page.html"
        file.write_text(text, encoding="utf-8")
        self.size_bytes = file.stat().st_size
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light"
        )
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page: Page = context.new_page()
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(file.as_uri())
        self.opened_ms: float = self.page.evaluate(
            "performance.getEntriesByType('navigation')[0].loadEventEnd"
        )
        assert self.said == []
        assert self.asked == [file.as_uri()]

    def column(self, number: int) -> list[str]:
        """The texts of a column of the candidates."""
        cells = self.page.locator(f"#candidates tbody td:nth-child({number})")
        return [text.split()[0] for text in cells.all_inner_texts()]


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_is_quiet_and_fits(
    browser: Browser, tmp_path: Path, width: int, dark: bool
) -> None:
    opened = Opened(browser, tmp_path, build_page(facts(make_run(40))), width=width, dark=dark)
    assert opened.page.evaluate("document.documentElement.scrollWidth") == width
    paper = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(23, 27, 33)" if dark else "rgb(255, 255, 255)")
    ink = opened.page.evaluate("getComputedStyle(document.querySelector('svg .name')).fill")
    assert ink == ("rgb(232, 236, 241)" if dark else "rgb(28, 33, 40)")
    picture = opened.page.locator(".hero svg").bounding_box()
    assert picture is not None
    assert picture["y"] + picture["height"] / 2 < 900, "pictures come first"


def test_a_dot_tells_of_its_candidate_and_its_notation_can_be_copied(
    browser: Browser, tmp_path: Path
) -> None:
    records = make_run(40)
    opened = Opened(browser, tmp_path, build_page(facts(records)))
    page, card = opened.page, opened.page.locator("#card")
    best = best_record(records)
    assert best is not None
    assert card.locator("b").inner_text() == f"trial {best.number}", "the best one first"
    row = next(row for row in pareto_rows(records) if row.trial != best.number)
    dot = page.locator(f".hero .on-front[data-i='{row.trial}']")
    dot.hover()
    assert card.locator("b").inner_text() == f"trial {row.trial}"
    assert card.locator("code").inner_text() == row.architecture
    assert f"accuracy {row.accuracy_percent:.2f}" in card.inner_text()
    assert "lit" in (dot.get_attribute("class") or "")
    # A click keeps it, so that the pointer can go to the button.
    dot.click()
    page.locator(f".hero .star[data-i='{best.number}']").hover()
    assert card.locator("b").inner_text() == f"trial {row.trial}"
    page.evaluate(
        "document.addEventListener('copy', () => { window.copied = String(getSelection()); })"
    )
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    card.locator("button").click()
    page.wait_for_function("document.querySelector('#card button').textContent === 'Copied'")
    assert page.evaluate("navigator.clipboard.readText()") == row.architecture
    assert opened.said == []


def test_candidates_are_sorted_and_filtered(browser: Browser, tmp_path: Path) -> None:
    records = make_run(60)
    opened = Opened(browser, tmp_path, build_page(facts(records)))
    page, rows = opened.page, candidate_rows(records)
    trials = [str(row.trial) for row in rows]
    assert opened.column(1) == trials, "by reward"
    page.get_by_role("button", name="latency").click()
    by_latency = sorted(rows, key=lambda row: (row.latency_ms, row.trial))
    assert opened.column(1) == [str(row.trial) for row in by_latency]
    head = page.locator("#candidates th", has_text="latency")
    assert head.get_attribute("aria-sort") == "ascending"
    page.get_by_role("button", name="latency").click()
    assert opened.column(1) == [str(row.trial) for row in reversed(by_latency)]
    page.get_by_role("checkbox", name="Pareto front").check()
    front = {str(row.trial) for row in pareto_rows(records)}
    assert set(opened.column(1)) == front
    assert page.locator("#count").inner_text() == f"{len(front)} of {len(rows)}"
    outside = next(row for row in rows if str(row.trial) not in front)
    dot = page.locator(f".hero .candidate[data-i='{outside.trial}']").first
    assert "out" in (dot.get_attribute("class") or "")
    page.get_by_role("checkbox", name="Pareto front").uncheck()
    page.get_by_label("within the target").check()
    assert set(opened.column(1)) == {str(row.trial) for row in rows if row.latency_ms <= 0.06}
    page.get_by_label("within the target").uncheck()
    words = rows[0].architecture.split(":")[2:4]
    page.get_by_label("Filter").fill(" ".join(words))
    kept = [row for row in rows if all(word in row.architecture for word in words)]
    assert set(opened.column(1)) == {str(row.trial) for row in kept}
    page.get_by_label("Filter").fill(f"trial {trials[3]}")
    assert opened.column(1) == [trials[3]]
    page.get_by_label("Filter").fill("nothing of the kind")
    assert opened.column(1) == []
    assert opened.said == []


def test_without_scripts_it_is_still_a_report(browser: Browser, tmp_path: Path) -> None:
    records = make_run(40)
    file = tmp_path / "page.html"
    file.write_text(build_page(facts(records)), encoding="utf-8")
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto(file.as_uri())
    assert page.locator("#candidates tbody tr").count() == len(candidate_rows(records))
    assert page.locator(".hero svg .candidate").count() > 0
    assert not page.locator("#tools").is_visible()
    assert page.locator("button:visible").count() == 0


def interrupted() -> list[TrialRecord]:
    return make_run(1)


def failed() -> list[TrialRecord]:
    return [make_failure(n, one) for n, one in enumerate(sample_architectures(6))]


def doubtful() -> list[TrialRecord]:
    a, b = sample_architectures(2)
    noisy = make_success(0, a, 0.7, make_latency(0.05, spread=0.4))
    moved = make_success(1, b, 0.8, make_latency(0.07, reference_change=0.4))
    return [noisy, replace(moved, first_latency=make_latency(0.09))]


@pytest.mark.parametrize(
    ("records", "says"),
    [
        ([], "No candidate was measured yet."),
        (interrupted(), "Best candidate: trial 0"),
        (failed(), "the loss is NaN"),
        (doubtful(), "clock, heat or speed changed: 1"),
    ],
    ids=["empty", "interrupted", "failed", "doubtful"],
)
def test_unusual_runs_have_a_page_that_says_what_happened(
    browser: Browser, tmp_path: Path, records: list[TrialRecord], says: str
) -> None:
    opened = Opened(browser, tmp_path, build_page(facts(records)))
    assert says in opened.page.locator("body").inner_text()
    opened.page.mouse.move(640, 500)
    opened.page.mouse.click(640, 500)
    assert opened.said == []


def test_warnings_can_be_filtered_away(browser: Browser, tmp_path: Path) -> None:
    opened = Opened(browser, tmp_path, build_page(facts(doubtful())))
    assert opened.page.locator("#candidates .flag").count() == 2
    opened.page.get_by_label("no warnings").check()
    assert opened.column(1) == []


def test_a_run_of_thousands_opens_at_once(browser: Browser, tmp_path: Path) -> None:
    opened = Opened(browser, tmp_path, build_page(facts(make_run(5000, kernel_times=True))))
    assert opened.size_bytes < MOST_BYTES
    assert opened.opened_ms < OPENS_WITHIN_MS
    page = opened.page
    assert page.locator("#candidates tbody tr").count() == 100
    page.get_by_role("button", name="Show more").click()
    assert page.locator("#candidates tbody tr").count() == 500
    assert opened.said == []


def test_runs_laid_over_each_other_are_a_quiet_page_too(browser: Browser, tmp_path: Path) -> None:
    text = build_comparison([facts(make_run(30)), facts(make_run(30, seed=1))])
    opened = Opened(browser, tmp_path, text, width=390)
    assert opened.page.evaluate("document.documentElement.scrollWidth") == 390
    assert opened.page.locator("svg polyline").count() >= 4
