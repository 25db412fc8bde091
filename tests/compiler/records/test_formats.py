"""Lines of a store are read from their ends, as quickly as that allows and as truly as in whole."""

from __future__ import annotations

import base64
import json
import math
import random
import struct
import time
from pathlib import Path

import pytest

from tests.compiler.stores import TARGET, add, make_kernel, make_record
from tvm_mnas.compiler.records.formats import (
    FAILED_S,
    HistoryEvent,
    ScheduleParser,
    StoreManifest,
    compact_workload,
    mean_s,
    parse_event,
    parse_schedule,
    parse_workload,
)
from tvm_mnas.compiler.records.store import RecordStore
from tvm_mnas.errors import RecordsError

TRACE = [[["GetSBlock", [], ["block0", "main"], ["b0"]]], [[6, [1, 2]]]]
CPU = {"keys": ["cpu"], "kind": "llvm", "mattr": ["+avx", "+fma"], "num-cores": 1, "tag": ""}
ARGUMENTS = [["TENSOR", "float32", [1, 8, 8, 48]], ["TENSOR", "float32", [3, 8]]]
HOSTILE = [
    [["Annotate", ["b0"], ['], [1e-9], {"kind": "llvm"}, []]]'], []]],
    [[], [1.0], {"a": []}],
]
"""A trace that looks like the end of a record, within a string and without."""


def _line(record: object, line: int = 3) -> bytes:
    return f"[{line}, {json.dumps(record)}]\n".encode()


LINES = {
    "plain": _line([TRACE, [2.5e-6, 3e-6], CPU, ARGUMENTS]),
    "one run": _line([TRACE, [2.5e-6], CPU, ARGUMENTS]),
    "large line": _line([TRACE, [2.5e-6], CPU, ARGUMENTS], 123456),
    "whole numbers": _line([TRACE, [2, 3], CPU, ARGUMENTS]),
    "failed": _line([TRACE, [FAILED_S], CPU, ARGUMENTS]),
    "no runs": _line([TRACE, [], CPU, ARGUMENTS]),
    "null runs": _line([TRACE, None, CPU, ARGUMENTS]),
    "null runs, hostile trace": _line([HOSTILE, None, CPU, ARGUMENTS]),
    "hostile trace": _line([HOSTILE, [4e-6], CPU, ARGUMENTS]),
    "no arguments": _line([TRACE, [4e-6], CPU, []]),
    "nested target": _line([TRACE, [4e-6], {**CPU, "host": {"kind": "llvm", "l": [1]}}, []]),
    "not a number": _line([TRACE, [math.nan], CPU, []]),
    "compact": json.dumps([3, [TRACE, [4e-6], CPU, ARGUMENTS]], separators=(",", ":")).encode()
    + b"\n",
    "spaces around": b" [3 , " + json.dumps([TRACE, [4e-6], CPU, []]).encode() + b" ] \n",
}


@pytest.mark.parametrize("name", LINES)
def test_a_record_read_from_its_ends_is_as_read_in_whole(name: str) -> None:
    line, seconds, _ = parse_schedule(LINES[name])
    parser = ScheduleParser()
    for _ in range(2):  # the second time its end is known
        assert parser(LINES[name]) == (line, seconds)


@pytest.mark.parametrize(
    "text",
    [
        _line([[1.0], CPU, ARGUMENTS]),
        _line([TRACE, CPU, ARGUMENTS]),
        _line([TRACE, ["fast"], CPU, ARGUMENTS]),
        _line([TRACE, [4e-6], CPU, ARGUMENTS])[:-3] + b"\n",
        _line([TRACE, [4e-6], CPU, ARGUMENTS])[1:],
        b"\n",
    ],
)
def test_what_shows_at_its_ends_to_be_no_record_is_refused(text: bytes) -> None:
    parser = ScheduleParser()
    parser(LINES["plain"])
    with pytest.raises(ValueError, match=r"not|line"):
        parser(text)


def test_known_ends_mislead_nobody() -> None:
    """The same end after another beginning: one parser reads all lines, in every order."""
    lines = list(LINES.values())
    for seed in range(20):
        random.Random(seed).shuffle(lines)
        parser = ScheduleParser()
        assert [parser(text) for text in lines] == [parse_schedule(text)[:2] for text in lines]


@pytest.mark.parametrize(
    "text",
    [
        b"\n",
        b"{}\n",
        b"[]\n",
        b"[0]\n",
        b"null\n",
        b"[0, []]\n",
        b"[-1, [[], [1.0], {}, []]]\n",
        b'["0", [[], [1.0], {}, []]]\n',
        b"[0, [[], 1.0, {}, []]]\n",
        b'[0, [[], ["fast"], {}, []]]\n',
        b"[0, [[], [1.0], [], []]]\n",
        b"[0, [[], [1.0], {}, []], 1]\n",
        b"\0\0\0\0\n",
        _line([TRACE, [4e-6], CPU, ARGUMENTS])[:-3] + b"\n",
        _line([TRACE, [4e-6], CPU, ARGUMENTS])[20:],
        _line([TRACE, [4e-6], CPU, ARGUMENTS])[:-1] + b"]\n",
        _line([TRACE, [4e-6], CPU, ARGUMENTS])[:-1] + _line([TRACE, [4e-6], CPU, []]),
    ],
)
def test_what_is_no_record_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"not|line|base 10|lacks|decode"):
        parse_schedule(text)


@pytest.mark.parametrize(
    "text", [b"{}\n", b'["1"]\n', b'[1, "code"]\n', b'["x", "code"]\n', b'["1", 2]\n']
)
def test_what_is_no_kernel_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"not|line|base 10|lacks|decode"):
        parse_workload(text)


def _code(graph: bytes, length: int | None = None) -> str:
    size = len(graph) if length is None else length
    return base64.b64encode(struct.pack("<Q", size) + graph).decode()


def test_a_kernels_code_is_kept_without_its_blanks() -> None:
    graph = {"root_index": 1, "nodes": [{"type": "a b \u00e9"}, {"data": [1.5e-30, 2**60]}]}
    text = json.dumps(["12", _code(json.dumps(graph, indent=2).encode())])
    compact = compact_workload(text)
    structural_hash, code = json.loads(compact)
    content = base64.b64decode(code)
    assert structural_hash == "12"
    assert struct.unpack("<Q", content[:8]) == (len(content) - 8,)
    assert json.loads(content[8:]) == graph
    assert b"\n" not in content[8:]
    assert len(compact) < len(text)
    assert compact_workload(compact) == compact


@pytest.mark.parametrize(
    "code",
    ["code", "", _code(b"{}", 3), _code(b"{ torn"), _code(b'"\xff"')],
    ids=["no-base64", "empty", "other-length", "no-json", "no-text"],
)
def test_code_of_another_form_is_left_alone(code: str) -> None:
    text = json.dumps(["12", code])
    assert compact_workload(text) == text


@pytest.mark.parametrize(
    "text",
    [b"[]\n", b"3\n", b"{}\n", b'{"key": "1", "name": "n", "budget": 4}\n', b'{"key": "1", "name"'],
)
def test_what_is_no_event_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"not|line|base 10|lacks|decode"):
        parse_event(text)


@pytest.mark.parametrize("flops", [None, 123])
def test_an_event_round_trips(flops: int | None) -> None:
    event = HistoryEvent("0f", "conv2d", 32, 30, {"timeout": 2}, 1.5, flops)
    assert parse_event(event.to_line()) == event


def test_failed_runs_have_no_mean() -> None:
    assert mean_s([1e-6, 3e-6]) == pytest.approx(2e-6)
    assert mean_s([]) == mean_s([FAILED_S]) == mean_s([1e-6, 1e11]) == math.inf


def test_a_manifest_round_trips_and_tells_differences(tmp_path: Path) -> None:
    manifest = StoreManifest(TARGET, "0.27.0")
    manifest.write(tmp_path)
    assert StoreManifest.read(tmp_path) == manifest
    assert manifest.difference(manifest) is None
    for other in (
        StoreManifest(TARGET, "0.26.0"),
        StoreManifest("{}", "0.27.0"),
        StoreManifest(TARGET, "0.27.0", 2),
    ):
        assert manifest.difference(other) is not None
    with pytest.raises(RecordsError, match="manifest.json"):
        StoreManifest.read(tmp_path / "absent")


SCHEDULES = 50_000


@pytest.fixture
def large(tmp_path: Path) -> RecordStore:
    """Yield a closed store of 50,000 schedules of 400 kernels, a tenth of them failed; half a megabyte a kernel."""
    store = RecordStore.open(tmp_path / "large", target=TARGET)
    for number in range(400):
        add(store, make_kernel(number), [])
    draw = random.Random(0)
    trace = json.dumps([[["SamplePerfectTile", ["l1"], [4, 64], ["v2", "v3"]]] * 30, [[6, [1, 2]]]])
    end = json.dumps([CPU, ARGUMENTS])[1:]
    with (store.directory / "database_tuning_record.json").open("w") as file:
        for _ in range(SCHEDULES):
            run_s = FAILED_S if draw.random() < 0.1 else draw.uniform(1e-6, 1e-3)
            runs = json.dumps([run_s, run_s * 1.01] if run_s < 1 else [run_s])
            file.write(f"[{draw.randrange(400)}, [{trace}, {runs}, {end}]\n")
    return store


@pytest.mark.timed
def test_a_large_store_opens_faster_than_naively_and_as_read_naively(large: RecordStore) -> None:
    start_s = time.process_time()
    store = RecordStore.open(large.directory, target=TARGET)
    opening_s = time.process_time() - start_s
    path = large.directory / "database_tuning_record.json"
    try:
        start_s = time.process_time()
        for text in path.read_bytes().splitlines():
            json.loads(text)
        naive_s = time.process_time() - start_s
        # A quarter on one machine.
        assert opening_s < naive_s / 2
        schedules: dict[str, list[float]] = {}
        best: dict[str, tuple[float, object]] = {}
        for text in path.read_bytes().splitlines(keepends=True):
            line, record = json.loads(text)
            key = make_kernel(line).key
            mean = math.fsum(record[1]) / len(record[1])
            schedules.setdefault(key, []).append(mean)
            if mean < FAILED_S and mean < best.get(key, (math.inf, None))[0]:
                best[key] = (mean, record)
        assert sum(len(means) for means in schedules.values()) == SCHEDULES
        assert len(store) == len(best) == 400
        for key, (mean, record) in best.items():
            assert store.best_us(key) == mean * 1e6
            assert store.schedules(key) == len(schedules[key])
            assert json.loads(store.best_record(key) or "") == record
        some = make_kernel(7).key
        found = [mean_s(json.loads(record)[1]) for record in store.records_of(some)]
        assert found == [mean if mean < FAILED_S else math.inf for mean in schedules[some]]
    finally:
        path.unlink()  # some hundred megabytes, which pytest would keep


def test_a_record_whose_trace_is_damaged_is_named_when_it_is_read(tmp_path: Path) -> None:
    kernel = make_kernel()
    store = RecordStore.open(tmp_path / "records", target=TARGET)
    add(store, kernel, [make_record(3e-6), make_record(2e-6), make_record(4e-6)])
    path = store.directory / "database_tuning_record.json"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b'"trace"', b'"tra\0e"')
    path.write_bytes(b"".join(lines))
    reopened = RecordStore.open(store.directory, target=TARGET)
    assert reopened.best_us(kernel.key) == pytest.approx(2.0)
    with pytest.raises(RecordsError, match="records check --repair"):
        reopened.best_record(kernel.key)
