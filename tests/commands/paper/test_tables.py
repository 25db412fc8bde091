"""`tvm-mnas paper`: what the tables print, without a device."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.report.runs import make_latency
from tvm_mnas.commands.paper import tables
from tvm_mnas.errors import ConfigError
from tvm_mnas.evaluation.toolchain import ToolchainOptions
from tvm_mnas.paper import checkpoints
from tvm_mnas.paper import separable as search_layers
from tvm_mnas.paper.checkpoints import CheckpointAccuracy
from tvm_mnas.paper.separable import LayerPair
from tvm_mnas.workflows import compare as lineup
from tvm_mnas.workflows.compare import ModelTiming
from tvm_mnas.workflows.model_ref import ModelRef


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Times each network at 10 ms more than the one before it; `darts-imagenet` fails. Returns what was asked for."""
    asked: list[str] = []

    def compare_models(
        models: Sequence[ModelRef], _: ToolchainOptions, **options: Any
    ) -> list[ModelTiming]:
        asked.extend(model.name for model in models)
        return [
            ModelTiming(name=model.name, failure="tuning: gone")
            if model.name == "darts-imagenet"
            else ModelTiming(
                name=model.name,
                latencies=(make_latency(10.0 * number, emulated=options["device"] != "local"),)
                * options["rounds"],
                kernels=10,
                schedules=320,
            )
            for number, model in enumerate(models, 1)
        ]

    monkeypatch.setattr(lineup, "compare_models", compare_models)
    return asked


def test_table_1_has_every_row_of_the_paper(
    lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    tables.table1(as_json=True)
    rows = {row["key"]: row for row in json.loads(capsys.readouterr().out)}
    assert len(rows) == 18
    assert list(rows) == lines
    assert rows["mobilenet-v2"]["relative"] == 1.0
    assert rows["mobilenet-v2"]["published_relative"] == 1.0
    mine = rows["mnasnet"]
    assert mine["published_relative"] == pytest.approx(76 / 75)
    assert mine["relative"] == mine["latency_ms"] / rows["mobilenet-v2"]["latency_ms"]
    assert mine["agreement"] == pytest.approx(mine["relative"] / (76 / 75))
    assert rows["darts-imagenet"]["relative"] is None
    assert rows["darts-imagenet"]["measurement"]["failure"] == "tuning: gone"
    assert mine["measurement"]["latencies"][0]["samples_ms"]


def test_table_1_prints_ours_and_the_papers(
    lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    tables.table1(only=["mobilenet-v2", "mnasnet", "darts-imagenet"], rounds=4)
    assert lines == ["mobilenet-v2", "darts-imagenet", "mnasnet"]
    out = capsys.readouterr().out
    (row,) = [line for line in out.splitlines() if line.startswith("MnasNet (Figure 7) ")]
    assert "4.38M (4.2M)" in row
    assert "(76)" in row
    assert "3.00 (1.01)" in row
    assert "darts-imagenet has no latency: tuning: gone" in out
    assert "median of 4 rounds in turn" in out
    assert "32 schedules a kernel" in out
    assert "nothing was trained" in out


def test_a_checkpoints_accuracy_stands_beside_the_papers(
    lines: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    measured = CheckpointAccuracy(file="net.safetensors", data="embedded", top1=0.7, samples=50000)
    asked = []

    def measure(models: Sequence[ModelRef], *arguments: Any, observer: object) -> dict[str, Any]:
        asked.append(([model.name for model in models], *arguments))
        return {"mnasnet": measured}

    monkeypatch.setattr(checkpoints, "measure_checkpoints", measure)
    file = tmp_path / "net.safetensors"
    file.touch()
    only = ["mobilenet-v2", "mnasnet"]
    given = {"checkpoint": [f"mnasnet={file}"], "data": "embedded", "counts_only": True}
    tables.table1(only=only, **given)
    assert asked == [(only, {"mnasnet": file}, "embedded")]
    out = capsys.readouterr().out
    (row,) = [line for line in out.splitlines() if line.startswith("MnasNet (Figure 7) ")]
    assert " 70 (74) " in row
    (row,) = [line for line in out.splitlines() if line.startswith("MobileNetV2 ")]
    assert " (72) " in row
    assert "mnasnet: top-1 70.00 +- 0.20 %, measured of net.safetensors" in out
    tables.table3(only=["mnasnet", "figure7-b"], as_json=True, **given)
    ours, other = json.loads(capsys.readouterr().out)
    assert ours["checkpoint"] == measured.to_json()
    assert ours["accuracy_percent"] == 70.0
    assert other["checkpoint"] is None
    assert other["accuracy_percent"] is None


def test_an_emulators_times_are_called_that(
    lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    tables.table3(device="emulated-aarch64")
    out = capsys.readouterr().out
    assert "EMULATED ms" in out
    assert "EMULATED, not latencies" in out


def test_table_3_repeats_one_kind_of_layer(
    lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    tables.table3(as_json=True)
    rows = {row["key"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(rows) == ["mnasnet", "figure7-b", "figure7-c", "figure7-d", "figure7-e"]
    # More expansion costs more than a larger kernel does.
    counts = [rows[f"figure7-{letter}"]["mult_adds"] for letter in "bcde"]
    assert counts == sorted(counts)
    assert rows["figure7-e"]["published_relative"] == pytest.approx(157 / 76)


def test_table_2_has_its_seven_detectors(
    lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    tables.table2(as_json=True)
    rows = {row["key"]: row for row in json.loads(capsys.readouterr().out)}
    # Each is timed beside itself without decoding and suppression.
    assert [key + end for key in rows for end in ("", "+raw")] == lines
    assert len(rows) == 7
    ssd = rows["ssd300"]
    assert ssd["raw_latency_ms"] == ssd["raw"]["latency_ms"] != ssd["latency_ms"]
    assert ssd["boxes_share"] == pytest.approx(1 - ssd["raw_latency_ms"] / ssd["latency_ms"])
    assert rows["mobilenet-v2-ssdlite"]["relative"] == 1.0
    assert rows["mnasnet-ssdlite"]["published_relative"] == pytest.approx(190 / 200)
    assert rows["ssd300"]["published_accuracy_percent"] == 23.2


def test_counts_need_no_device(lines: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    tables.table3(counts_only=True)
    assert lines == []
    out = capsys.readouterr().out
    assert "MnasNet" in out
    assert "relative" not in out


def test_only_a_network_of_the_table_can_be_chosen(lines: list[str]) -> None:
    with pytest.raises(ConfigError, match="'resnet'; it has mobilenet-v1, .*mnasnet-92-se"):
        tables.table1(only=["resnet"])


def test_layers_prints_both_ways(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = LayerPair(size=14, channels=80, tuned_us=(10.0, 20.0), untuned_us=(300.0, None))
    timed = ModelTiming(
        name="14x14x80 one 5x5", latencies=(make_latency(1.0),), kernels=1, schedules=32
    )
    monkeypatch.setattr(search_layers, "compare_layers", lambda *_, **__: ([pair], [timed]))
    tables.layers()
    out = capsys.readouterr().out
    (row,) = [line for line in out.splitlines() if line.startswith("14x14x80")]
    assert row.split() == [
        "14x14x80",
        "1.65M",
        "2.79M",
        "0.5899",
        "10",
        "20",
        "0.5",
        "300",
        "-",
        "-",
    ]
