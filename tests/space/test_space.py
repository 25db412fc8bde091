"""Spaces: files, decisions, tokens and their round trips."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest

from tvm_mnas.errors import SpaceError
from tvm_mnas.space.architecture import Architecture, ConvOp
from tvm_mnas.space.files import load_space, read_space, space_names

SMALL = """
name = "small"
[input]
size = 32
channels = 3
classes = 10
[stem]
filters = 16
stride = 2
[head]
filters = 64
[choices]
conv_op = ["sepconv", "mbconv3"]
kernel_size = [3, 5]
skip_op = ["none", "identity", "max_pool", "avg_pool"]
se_ratio = [0.0, 0.25]
filter_scale = [0.75, 1.0, 1.25]
layer_delta = [-1, 0, 1]
[[blocks]]
resolution = 16
stride = 1
filters = 16
layers = 1
[[blocks]]
resolution = 16
stride = 2
filters = 24
layers = 2
conv_op = ["mbconv6"]
"""


def _write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "space.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", space_names())
def test_tokens_architectures_and_notations_round_trip(name: str) -> None:
    space = load_space(name)
    rng = random.Random(1)
    for _ in range(500):
        tokens = space.sample(rng)
        architecture = space.decode(tokens)
        assert space.encode(architecture) == tokens
        assert space.encode(Architecture.parse(architecture.notation)) == tokens


def test_values_that_become_equal_count_once_and_a_single_value_is_no_decision(
    tmp_path: Path,
) -> None:
    space = read_space(_write(tmp_path, SMALL))
    names = [decision.name for decision in space.decisions]
    assert "block2.conv_op" not in names
    choices = {decision.name: decision.choices for decision in space.decisions}
    assert choices["block1.filters"] == (16, 24)
    assert choices["block1.layers"] == (1, 2)
    assert choices["block2.filters"] == (24, 32)
    assert space.size == math.prod(len(c) for c in choices.values())
    assert space.decode([0] * len(names)).blocks[1].conv_op is ConvOp.MBCONV


def test_sampling_is_uniform_and_reproducible() -> None:
    space = load_space("quickstart")
    first = [space.sample(random.Random(7)) for _ in range(3)]
    assert first[0] == first[1] == first[2]
    rng = random.Random(0)
    samples = [space.sample(rng) for _ in range(3000)]
    for index, decision in enumerate(space.decisions):
        counts = [sum(s[index] == token for s in samples) for token in range(len(decision.choices))]
        expected = 3000 / len(decision.choices)
        assert all(abs(count - expected) < 5 * math.sqrt(expected) for count in counts)


def test_fingerprint_changes_with_meaning_and_not_with_the_name(tmp_path: Path) -> None:
    fingerprint = read_space(_write(tmp_path, SMALL)).fingerprint
    renamed = read_space(_write(tmp_path, SMALL.replace('"small"', '"other"')))
    assert renamed.fingerprint == fingerprint
    changed = read_space(_write(tmp_path, SMALL.replace("[3, 5]", "[5, 3]")))
    assert changed.fingerprint != fingerprint


@pytest.mark.parametrize("tokens", [[], [0] * 99, [99] + [0] * 8])
def test_tokens_outside_the_space_are_refused(tmp_path: Path, tokens: list[int]) -> None:
    space = read_space(_write(tmp_path, SMALL))
    with pytest.raises(SpaceError, match="token"):
        space.decode(tokens)


def test_an_architecture_outside_the_space_is_refused_by_name(tmp_path: Path) -> None:
    space = read_space(_write(tmp_path, SMALL))
    inside = space.decode([0] * len(space.decisions))
    outside = Architecture.parse(inside.notation.replace("_k3_", "_k7_"))
    with pytest.raises(SpaceError, match=r"block1\.kernel_size"):
        space.encode(outside)
    with pytest.raises(SpaceError, match="classes"):
        space.encode(Architecture.parse(inside.notation.replace(":n10", ":n11")))


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("size = 32", "size = 0", r"input\.size"),
        ("size = 32", 'size = "32"', r"input\.size"),
        ("[3, 5]", "[3, 4]", "kernel size"),
        ("[3, 5]", "[]", r"choices\.kernel_size"),
        ('"sepconv", "mbconv3"', '"sepconv", "mbconv"', "conv_op"),
        ('"max_pool", "avg_pool"', '"min_pool"', "skip_op"),
        ("[0.75, 1.0, 1.25]", "[-1.0]", "filter_scale"),
        ("resolution = 16\nstride = 2", "resolution = 8\nstride = 2", r"blocks\[2\]\.resolution"),
        ("stride = 2\nfilters = 24", "stride = 4\nfilters = 24", "stride"),
        ('name = "small"', "", "name"),
        ("[head]", "[heat]", "heat"),
        ("classes = 10", "classes = 10\ncolour = 3", r"input\.colour"),
        ("channels = 3", "", r"input\.channels"),
        ("[stem]", "[stem", "valid TOML"),
    ],
)
def test_a_wrong_file_gets_one_line_with_file_key_and_rule(
    tmp_path: Path, old: str, new: str, key: str
) -> None:
    assert old in SMALL
    path = _write(tmp_path, SMALL.replace(old, new, 1))
    with pytest.raises(SpaceError, match=key) as caught:
        read_space(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert message.count(str(path)) == 1
    assert "\n" not in message


def test_an_unknown_space_names_those_that_ship(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match=r"mcu-96, mnasnet, .*quickstart.*'nothing'"):
        load_space("nothing")
    with pytest.raises(SpaceError, match="cannot read the space file"):
        load_space(str(tmp_path / "absent.toml"))
