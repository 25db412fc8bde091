"""`tvm-mnas space --kernels` and `space around`: what is printed and written, and mistakes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tvm_mnas.commands.space import space
from tvm_mnas.errors import SpaceError, TvmMnasError
from tvm_mnas.space.architecture import Architecture
from tvm_mnas.space.files import load_space, parse_space, space_names
from tvm_mnas.space.kernels import count_kernels
from tvm_mnas.workflows.model_ref import resolve_architecture


def test_json_has_the_counts_of_the_space(capsys: pytest.CaptureFixture[str]) -> None:
    space("quickstart", kernels=True, as_json=True)
    printed = json.loads(capsys.readouterr().out)
    counted = count_kernels(load_space("quickstart"))
    assert printed["kernels"] == len(counted.distinct) == sum(printed["by_kind"].values())
    assert list(printed["by_part"]) == [part for part, _ in counted.parts]
    assert 0 < printed["least_mult_adds"] < printed["most_mult_adds"] == counted.most_mult_adds


def test_the_table_names_kinds_parts_and_the_range(capsys: pytest.CaptureFixture[str]) -> None:
    space("quickstart", kernels=True)
    out = capsys.readouterr().out
    counted = count_kernels(load_space("quickstart"))
    assert f"{len(counted.distinct)} distinct kernels" in out
    assert "depthwise 5x5 stride 2" in out
    assert "block1" in out
    assert f"{counted.least_mult_adds:,} to {counted.most_mult_adds:,} mult-adds" in out


@pytest.mark.parametrize(("name", "sample"), [(None, 0), ("mnasnet", 3)])
def test_kernels_are_those_of_one_space(name: str | None, sample: int) -> None:
    with pytest.raises(SpaceError, match="tvm-mnas space .* --kernels"):
        space(name, sample=sample, kernels=True)


def test_the_space_around_a_network_is_printed_and_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space("around", "mnasnet-b1")
    printed = capsys.readouterr().out
    path = tmp_path / "b1.toml"
    space("around", "mnasnet-b1", output=path)
    assert capsys.readouterr().out == f"{path}\n"
    assert path.read_text() == printed
    made = load_space(str(path))
    architecture = resolve_architecture("mnasnet-b1")
    assert made.decode(made.encode(architecture)) == architecture
    # What was written is a space as any other.
    space(str(path), sample=2, as_json=True)
    sampled = json.loads(capsys.readouterr().out)
    assert all(made.encode(Architecture.parse(row["architecture"])) for row in sampled)
    space(str(path), kernels=True, as_json=True)
    assert json.loads(capsys.readouterr().out)["kernels"] == len(count_kernels(made).distinct)


def test_json_of_the_space_around_a_network(capsys: pytest.CaptureFixture[str]) -> None:
    notation = resolve_architecture("mnasnet-small@1,96").notation
    space("around", notation, as_json=True)
    printed = json.loads(capsys.readouterr().out)
    made = parse_space(printed["text"], Path("around.toml"))
    assert (printed["name"], printed["size"]) == (made.name, made.size)
    assert (printed["architecture"], printed["file"]) == (notation, None)
    assert len(made.decisions) == printed["decisions"]


@pytest.mark.parametrize(
    ("words", "options", "message"),
    [
        (("around",), {}, "there is none; type `tvm-mnas space around mnasnet-b1`"),
        (("around", "mnasnet-b2"), {}, "'mnasnet-b2' is no network of the zoo"),
        (("around", "net.onnx"), {}, "net.onnx: an ONNX model is a file that is there"),
        (("around", "shufflenet-2x"), {}, "is no sequence of blocks"),
        (("around", "i32:stem"), {}, "INPUT:STEM"),
        (("around", "mnasnet-b1"), {"sample": 2}, "neither --sample nor --kernels"),
        (("around", "mnasnet-b1"), {"kernels": True}, "neither --sample nor --kernels"),
        (("around", "mnasnet-b1"), {"output": Path("b1")}, "type `-o b1.toml`"),
        (("around", "mnasnet-b1"), {"output": Path("none/b1.toml")}, "No such file"),
        (("around", "mnasnet-b1"), {"output": Path("there.toml")}, "File exists"),
        (("quickstart", "mnasnet-b1"), {}, "'mnasnet-b1'; type `tvm-mnas space quickstart`"),
        (("quickstart",), {"output": Path("b1.toml")}, "takes --output"),
        ((), {"output": Path("b1.toml")}, "type `tvm-mnas space around MODEL`"),
    ],
)
def test_a_mistake_with_around_is_one_line_and_writes_nothing(
    words: tuple[str, ...],
    options: dict[str, Any],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there.toml").write_text("mine")
    with pytest.raises(TvmMnasError, match=re.escape(message)) as caught:
        space(*words, **options)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["there.toml"]
    assert Path("there.toml").read_text() == "mine"


def test_no_space_that_ships_is_called_around() -> None:
    assert "around" not in space_names()
