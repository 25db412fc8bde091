"""A table on disk: read back as written, refused where it was changed or is not whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.evaluation.tables.four import STEPS, change_line, finish, write_space, write_table
from tests.report.runs import make_latency
from tvm_mnas.errors import ConfigError, RunError
from tvm_mnas.evaluation.tables.files import (
    ACCURACIES,
    FILES,
    KERNELS,
    LATENCIES,
    MANIFEST,
    NETWORKS,
    append_lines,
    device_of,
    find_table,
    latencies_of,
    latency_line,
    read_lines,
    read_manifest,
    read_table,
    sort_lines,
    table_names,
)
from tvm_mnas.evaluation.tables.manifest import TableManifest


def test_a_table_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    space = write_space(tmp_path)
    table = read_table(write_table(tmp_path, space))
    assert len(table.entries) == 4
    assert table.budgets == STEPS
    third = table.entries[2]
    assert [one.top1 for one in third.accuracies[60]] == [0.7, 0.71]
    assert [one.seed for one in third.accuracies[240]] == [0, 1]
    assert [one.latency_ms for one in third.tuned] == pytest.approx([0.03, 0.0306])
    assert [one.latency_ms for one in third.untuned] == pytest.approx([0.3, 0.306])
    assert table.kernels_us(third) == 2.0 + 3 * 3.0
    assert table.moved_bytes(third) == 400


def test_a_latency_survives_a_line_but_for_digits_that_nobody_reads() -> None:
    latency = make_latency(0.0123456789, reference_change=0.01)
    line = latency_line("n", "tuned", 1, latency)
    found = latencies_of([line], device_of(latency))["n", "tuned"][1]
    assert found.samples_ms == pytest.approx(latency.samples_ms, rel=1e-5)
    assert found.coverage == latency.coverage
    assert found.reference_ms == pytest.approx(latency.reference_ms, rel=1e-5)
    assert device_of(found) == device_of(latency)


def test_a_manifest_round_trips_and_refuses_what_is_not_one(tmp_path: Path) -> None:
    table = write_table(tmp_path, write_space(tmp_path))
    text = (table / MANIFEST).read_text()
    manifest = read_manifest(table)
    assert TableManifest.from_json(text) == manifest
    for damaged in (
        "{",
        "[]",
        text.replace('"cpu"', '"gpu"'),
        text.replace('"schema": 1', '"schema": 9'),
    ):
        (table / MANIFEST).write_text(damaged)
        with pytest.raises(RunError, match="manifest|format"):
            read_manifest(table)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_was_changed_is_refused_by_its_checksum(tmp_path: Path, name: str) -> None:
    table = write_table(tmp_path, write_space(tmp_path))
    (table / name).write_bytes((table / name).read_bytes() + b"\n")
    with pytest.raises(RunError, match=f"{name} is not the file that the table was finished with"):
        read_table(table)
    (table / name).unlink()
    with pytest.raises(RunError, match=name):
        read_table(table)


def test_a_table_with_a_hole_is_refused(tmp_path: Path) -> None:
    space = write_space(tmp_path)
    table = write_table(tmp_path, space)
    whole = {name: (table / name).read_bytes() for name in FILES}

    def refused(words: str) -> None:
        finish(table, space)
        with pytest.raises(RunError, match=words):
            read_table(table)
        for name, content in whole.items():
            (table / name).write_bytes(content)

    for name in (ACCURACIES, LATENCIES):
        (table / name).write_bytes(whole[name].split(b"\n", 1)[1])
        refused("cannot be read")
    (table / NETWORKS).write_bytes(whole[NETWORKS].split(b"\n", 1)[1])
    refused("is of 4 architectures and holds 3")
    (table / KERNELS).write_bytes(whole[KERNELS].split(b"\n", 1)[1])
    refused("lacks kernel a")
    change_line(table / KERNELS, 0, tuned_us=0.0)
    refused("above 0 us")


def test_lines_survive_a_torn_end(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    append_lines(path, [{"a": 1}])
    with path.open("ab") as file:
        file.write(b'{"a": 2, "b')
    assert read_lines(path) == [{"a": 1}]
    append_lines(path, [{"a": 3}])
    assert read_lines(path) == [{"a": 1}, {"a": 3}]
    path.write_text("{\n")
    with pytest.raises(RunError, match=r"x.jsonl:1: no JSON"):
        read_lines(path)
    assert read_lines(tmp_path / "none") == []


def test_sorted_lines_do_not_depend_on_their_order(tmp_path: Path) -> None:
    space = write_space(tmp_path)
    table = write_table(tmp_path, space)
    order = [entry.notation for entry in read_table(table).entries]
    sort_lines(table, order)
    before = {name: (table / name).read_bytes() for name in FILES}
    for name in FILES:
        lines = before[name].splitlines(keepends=True)
        (table / name).write_bytes(b"".join(reversed(lines)))
    sort_lines(table, order)
    assert {name: (table / name).read_bytes() for name in FILES} == before


def test_a_table_is_found_by_name_or_directory(tmp_path: Path) -> None:
    table = write_table(tmp_path, write_space(tmp_path))
    assert find_table(str(table)) == table
    with pytest.raises(ConfigError, match="a table must be a directory or one of .*not 'nothing'"):
        find_table("nothing")
    (table / MANIFEST).unlink()
    with pytest.raises(ConfigError, match="holds no finished table"):
        find_table(str(table))


@pytest.mark.parametrize("name", table_names())
def test_every_table_that_ships_is_whole(name: str) -> None:
    table = read_table(find_table(name))
    assert table.name == name
    for steps, spread in table.manifest.accuracy.items():
        assert spread.noise > 0, steps
