"""`tvm-mnas space`: what each of its commands prints and writes, and mistakes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tvm_mnas.commands.space import check, derive, list_spaces, reference, show
from tvm_mnas.errors import SpaceError, TvmMnasError
from tvm_mnas.space.architecture import Architecture
from tvm_mnas.space.files import load_space, parse_space, space_names
from tvm_mnas.space.kernels import count_kernels
from tvm_mnas.space.reference import EXAMPLE, space_reference
from tvm_mnas.workflows.model_ref import resolve_architecture


def test_json_has_the_counts_of_the_space(capsys: pytest.CaptureFixture[str]) -> None:
    show("quickstart", kernels=True, as_json=True)
    printed = json.loads(capsys.readouterr().out)
    counted = count_kernels(load_space("quickstart"))
    assert printed["kernels"] == len(counted.distinct) == sum(printed["by_kind"].values())
    assert list(printed["by_part"]) == [part for part, _ in counted.parts]
    assert 0 < printed["least_mult_adds"] < printed["most_mult_adds"] == counted.most_mult_adds


def test_the_table_names_kinds_parts_and_the_range(capsys: pytest.CaptureFixture[str]) -> None:
    show("quickstart", kernels=True)
    out = capsys.readouterr().out
    counted = count_kernels(load_space("quickstart"))
    assert f"{len(counted.distinct)} distinct kernels" in out
    assert "depthwise 5x5 stride 2" in out
    assert "block1" in out
    assert f"{counted.least_mult_adds:,} to {counted.most_mult_adds:,} mult-adds" in out


def test_two_things_are_not_shown_at_once() -> None:
    with pytest.raises(SpaceError, match="type `tvm-mnas space show mnasnet --kernels`"):
        show("mnasnet", sample=3, kernels=True)


def test_the_list_has_every_space_that_ships(capsys: pytest.CaptureFixture[str]) -> None:
    list_spaces(as_json=True)
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == list(space_names())
    assert all(row["size"] == load_space(row["name"]).size for row in rows)


def test_a_good_file_is_told_its_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "shoes.toml"
    file.write_text(EXAMPLE)
    check(file)
    space = load_space(str(file))
    assert f"{space.size:,} architectures" in " ".join(capsys.readouterr().out.split())
    check(file, as_json=True)
    assert json.loads(capsys.readouterr().out)["fingerprint"] == space.fingerprint


def test_a_bad_file_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "shoes.toml"
    file.write_text(EXAMPLE.replace('"mbconv6"', '"mbconv60"'))
    with pytest.raises(
        SpaceError, match="conv_op must be conv, sepconv or mbconv2..mbconv10"
    ) as caught:
        check(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_reference_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    reference()
    assert capsys.readouterr().out == space_reference() + "\n"


def test_a_space_near_a_network_is_printed_and_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    derive("mnasnet-b1")
    printed = capsys.readouterr().out
    path = tmp_path / "b1.toml"
    derive("mnasnet-b1", output=path)
    assert capsys.readouterr().out == f"{path}\n"
    assert path.read_text() == printed
    made = load_space(str(path))
    architecture = resolve_architecture("mnasnet-b1")
    assert made.decode(made.encode(architecture)) == architecture
    # What was written is a space as any other.
    show(str(path), sample=2, as_json=True)
    sampled = json.loads(capsys.readouterr().out)
    assert all(made.encode(Architecture.parse(row["architecture"])) for row in sampled)
    show(str(path), kernels=True, as_json=True)
    assert json.loads(capsys.readouterr().out)["kernels"] == len(count_kernels(made).distinct)


def test_json_of_a_space_near_a_network(capsys: pytest.CaptureFixture[str]) -> None:
    notation = resolve_architecture("mnasnet-small@1,96").notation
    derive(notation, as_json=True)
    printed = json.loads(capsys.readouterr().out)
    made = parse_space(printed["text"], Path("derived.toml"))
    assert (printed["name"], printed["size"]) == (made.name, made.size)
    assert (printed["architecture"], printed["file"]) == (notation, None)
    assert len(made.decisions) == printed["decisions"]


@pytest.mark.parametrize(
    ("model", "output", "message"),
    [
        ("mnasnet-b2", None, "'mnasnet-b2' is no network of the zoo"),
        ("net.onnx", None, "cannot find the ONNX file net.onnx"),
        ("shufflenet-2x", None, "is no sequence of blocks"),
        ("i32:stem", None, "INPUT:STEM"),
        ("mnasnet-b1", Path("b1"), "type `-o b1.toml`"),
        ("mnasnet-b1", Path("none/b1.toml"), "No such file"),
        ("mnasnet-b1", Path("there.toml"), "File exists"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(
    model: str,
    output: Path | None,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there.toml").write_text("mine")
    with pytest.raises(TvmMnasError, match=re.escape(message)) as caught:
        derive(model, output=output)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["there.toml"]
    assert Path("there.toml").read_text() == "mine"
