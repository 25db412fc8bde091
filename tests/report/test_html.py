"""The page: complete, self-contained, escaped, and written for any run."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path

import pytest

from tests.report.runs import (
    make_failure,
    make_latency,
    make_manifest,
    make_run,
    make_success,
    sample_architectures,
)
from tvm_mnas.config import SearchConfig
from tvm_mnas.errors import RunError
from tvm_mnas.report.html import write_report
from tvm_mnas.report.rows import effort_rows, failure_rows, pareto_rows
from tvm_mnas.report.web.content import Column, Text, make_table
from tvm_mnas.report.web.explorer import FIRST_ROWS
from tvm_mnas.report.web.page import RunFacts, build_page
from tvm_mnas.search.reward import Reward
from tvm_mnas.search.run import RunDirectory, TrialRecord
from tvm_mnas.space.files import load_space

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&amp;</style>"
VOID = {"meta", "img", "source", "wbr", "link", "input"}


class Page(HTMLParser):
    """A parsed page: its tags with attributes, its text, and whether every tag is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open, f"left open: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def make_page(
    records: list[TrialRecord],
    *,
    config: SearchConfig | None = None,
    export: TrialRecord | None = None,
    accuracy_notes: tuple[str, ...] = (),
) -> Page:
    config = config or SearchConfig()
    reward = Reward(config.target_latency_ms, config.alpha, config.beta)
    latency = None if export is None else export.evaluation.latency
    manifest = None
    if export is not None and latency is not None:
        manifest = make_manifest(export.evaluation.architecture, latency)
    return Page(
        build_page(
            RunFacts(
                title="a run",
                records=records,
                reward=reward,
                config=config,
                space=load_space("mnasnet"),
                manifest=manifest,
                accuracy_notes=accuracy_notes,
            )
        )
    )


def test_the_page_says_how_much_an_accuracy_means() -> None:
    notes = ("candidates end near chance <b>", "an accuracy's noise is 1%")
    page = make_page(make_run(8), accuracy_notes=notes)
    assert "How much an accuracy means" in page.text
    assert "Candidates end near chance <b>." in page.text
    assert "An accuracy's noise is 1%." in page.text
    assert "How much an accuracy means" not in make_page(make_run(8)).text


def test_the_page_has_every_part() -> None:
    records = make_run(40)
    page = make_page(records)
    for row in pareto_rows(records):
        assert row.architecture in page.text
        assert f"{row.accuracy_percent:.2f}" in page.text
    names = {
        one["class"]: one for one in page.named("circle") if (one["class"] or "").startswith("on-")
    }
    assert names, "the front is drawn"
    marked = {one.get("data-i") for one in page.named("circle")}
    assert {str(row.trial) for row in pareto_rows(records)} <= marked
    for rows_of in (failure_rows, effort_rows):
        assert len(page.named("tr")) > len(rows_of(records))
    for expected in (
        "the loss is NaN at step 40",
        "AMD EPYC, 2 cores, Linux 6.1",
        '{"kind": "llvm", "mcpu": "znver3"}',
        "0.27.0",
        "schedules per tuned kernel",
        "schedules_per_kernel",
        "kernels per candidate",
    ):
        assert expected in page.text


def test_the_page_needs_nothing_else_and_runs_nothing() -> None:
    page = make_page(make_run(10))
    assert not {"iframe", "object", "img"} & {tag for tag, _ in page.tags}
    for attributes in (values for _, values in page.tags):
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "srcset", "href"):
            assert (attributes.get(name) or "data:,").startswith("data:")
    (policy,) = [m["content"] or "" for m in page.named("meta") if "http-equiv" in m]
    script = resources.files("tvm_mnas.report.web").joinpath("page.js").read_text()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy == (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'"
    )
    # One that runs, which the policy names, and one that holds data.
    assert [one.get("type") for one in page.named("script")] == ["application/json", None]
    assert any(m.get("name") == "viewport" for m in page.named("meta"))
    assert "prefers-color-scheme: dark" in page.text


def test_hostile_text_stays_text_everywhere() -> None:
    a, b = sample_architectures(2)
    records = [
        make_success(0, a, 0.7, make_latency(0.05, device_key=HOSTILE)),
        make_failure(1, b, "training", HOSTILE),
    ]
    config = SearchConfig(space=HOSTILE, data=HOSTILE, device=HOSTILE, records=HOSTILE)
    reward = Reward(0.06)
    manifest = replace(
        make_manifest(a, make_latency(0.05)), created=HOSTILE, versions={HOSTILE: HOSTILE}
    )
    text = build_page(
        RunFacts(title=HOSTILE, records=records, reward=reward, config=config, manifest=manifest)
    )
    page = Page(text)
    assert not page.named("img")
    assert len(page.named("script")) == 2
    assert page.text.count(HOSTILE) >= 8
    assert len(re.findall("</script", text)) == 2
    assert len(re.findall("</style>", text)) == 1


def test_emulated_times_are_labelled() -> None:
    page = make_page(make_run(10, emulated=True))
    assert "Times on this page come from an emulator" in page.text
    assert "time (emulated)" in page.text
    assert "time per inference (ms), emulated: not a latency" in page.text
    assert "emulated" not in make_page(make_run(10)).text


def test_times_with_untuned_kernels_in_them_are_labelled() -> None:
    a, b = sample_architectures(2)
    tuned = make_success(0, a, 0.7, make_latency(0.05, tuned_share=1.0))
    other = make_success(1, b, 0.9, make_latency(0.05, tuned_share=0.969))
    text = make_page([tuned, other]).text
    assert "Latency on this page: up to 3.1% of it in untuned kernels" in text
    # The best one's line and tile, and a column in the tables.
    assert text.count("3.1% of it in untuned kernels") >= 3
    assert "all but 3.1%" in make_page([other], export=other).text
    text = make_page([tuned], export=tuned).text
    assert "all of it" in text
    assert "untuned kernels" not in text


def test_times_of_a_device_that_changed_are_labelled() -> None:
    a, b = sample_architectures(2)
    steady = make_success(0, a, 0.7, make_latency(0.05, reference_change=0.01))
    moved = make_success(1, b, 0.9, make_latency(0.05, reference_change=0.5))
    text = make_page([steady, moved]).text
    assert "measured while the device's clock, heat or speed changed: 1." in text
    assert "reference kernel takes 50.0% longer than before" in text
    assert "0.202 to 0.3 ms" in text
    text = make_page([steady]).text
    assert "clock, heat or speed changed" not in text
    assert "than before" not in text


def test_what_was_measured_again_says_so_with_its_first_latency() -> None:
    (architecture,) = sample_architectures(1)
    record = make_success(0, architecture, 0.7, make_latency(0.05))
    again = replace(record, first_latency=make_latency(0.0725))
    assert "measured again (0.0725 ms at first)" in make_page([again]).text
    assert "measured again" not in make_page([record]).text


def test_latencies_that_do_not_compare_are_called_out() -> None:
    a, b = sample_architectures(2)
    one = make_success(0, a, 0.7, make_latency(0.05))
    other = make_success(1, b, 0.7, make_latency(0.05, device_key="another"))
    assert "do not compare" in make_page([one, other]).text
    assert "do not compare" not in make_page([one]).text


def test_a_forecast_is_on_the_page_and_called_one() -> None:
    assert "forecast" not in make_page(make_run(20)).text
    page = make_page(make_run(20, kernel_times=True))
    assert "A forecast, which no reward used: latency in ms = 1.25 x the sum" in page.text


def test_an_empty_run_has_a_page() -> None:
    page = make_page([])
    assert "No candidate was measured yet." in page.text
    assert "No candidate failed." in page.text
    assert "No latency was measured yet." in page.text


def test_long_lists_are_cut_and_say_so() -> None:
    (architecture,) = sample_architectures(1)
    records = [
        make_success(i, architecture, 0.5 + 0.0001 * i, make_latency(0.05)) for i in range(600)
    ]
    page = make_page(records)
    assert f"The first {FIRST_ROWS} of 600, the highest reward first." in page.text
    # The script has them all.
    data, _ = json.JSONDecoder().raw_decode(page.text[page.text.index('{"target_ms"') :])
    assert len(data["rows"]) == 600
    assert data["rows"][0]["n"] == 599


def test_a_report_is_a_page_with_its_pictures(tmp_path: Path) -> None:
    records = make_run(12)
    run = RunDirectory.create(tmp_path / "run", SearchConfig())
    paths = write_report(run, records, best=records[3])
    assert paths.page == run.path / "report" / "index.html"
    assert {path.name for path in paths.page.parent.iterdir()} == {path.name for path in paths}
    page = Page(paths.page.read_text(encoding="utf-8"))
    assert "Best candidate: trial 3" in page.text
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths[1:])
    assert len(page.named("svg")) >= 3
    # Writing again replaces it.
    write_report(run, [])
    assert "No candidate was measured yet." in paths.page.read_text(encoding="utf-8")


def test_the_exported_network_is_shown_if_its_manifest_can_be_read(tmp_path: Path) -> None:
    records = make_run(6)
    run = RunDirectory.create(tmp_path / "run", SearchConfig())
    manifest = run.path / "best" / "manifest.json"
    manifest.parent.mkdir()
    (architecture,) = sample_architectures(1)
    values = make_manifest(architecture, make_latency(0.05), trial=2).to_json()
    manifest.write_text(json.dumps(values))
    text = Page(write_report(run, records).page.read_text()).text
    assert "Best candidate: trial 2" in text
    assert "Exported network" in text
    assert "85.12%" in text
    # An export of another trial says nothing about the best one.
    assert "85.12%" not in write_report(run, records, best=records[0]).page.read_text()
    for damaged in ("{", json.dumps({**values, "latency": {"latency_ms": 1.0}})):
        manifest.write_text(damaged)
        assert "Exported network" not in write_report(run, records).page.read_text()


def test_a_report_that_cannot_be_written_names_the_directory(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run", SearchConfig())
    (run.path / "report").write_text("in the way")
    with pytest.raises(RunError, match="report"):
        write_report(run, [])


def test_code_may_break_after_colons_and_is_escaped() -> None:
    assert Text("a:b:<", "code").pieces == ["a", ":b", ":<"]
    config = SearchConfig(records="a:b<")
    text = build_page(RunFacts(title="a run", records=[], reward=Reward(0.06), config=config))
    assert "<code>a:<wbr>b&lt;</code>" in text


def test_a_table_shows_what_is_unknown_as_a_dash() -> None:
    rows = [{"x": 1.5, "y": "<"}, {"x": None, "y": ""}]
    columns = (Column("X", "x", lambda v: f"{v:.2f}"), Column("Y", "y", number=False))
    table = make_table(columns, rows)
    assert [[text.text for text in row] for row in table.rows] == [["1.50", "<"], ["-", ""]]
