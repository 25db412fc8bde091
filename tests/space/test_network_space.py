"""A space of one's own: tokens, notations and ids agree, and what breaks a rule is refused in one line."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from tvm_mnas.errors import SpaceError
from tvm_mnas.plugins import load_object
from tvm_mnas.space.candidate import parse_candidate
from tvm_mnas.space.catalogue import find_space
from tvm_mnas.space.files import load_space
from tvm_mnas.space.network_space import ChosenNetwork, NetworkSpace
from tvm_mnas.space.space import Choice


def build(choices: Mapping[str, Choice]) -> Any:
    """Stand in for a builder; nothing here builds."""
    return dict(choices)


CHOICES = {"width": (8, 16), "kind": ("a&b=c", "résumé ?@"), "ratio": (0.25,), "depth": (1, 2, 3)}
SPACE = NetworkSpace("tiny", CHOICES, build, image_shape=(1, 3, 32, 32), classes=10)


def every_network() -> list[ChosenNetwork]:
    ranges = [range(len(decision.choices)) for decision in SPACE.decisions]
    return [SPACE.decode(tokens) for tokens in itertools.product(*ranges)]


def test_decisions_are_the_choices_between_two_or_more() -> None:
    assert [decision.name for decision in SPACE.decisions] == ["width", "kind", "depth"]
    assert SPACE.size == len(every_network()) == 2 * 2 * 3


def test_every_network_differs_and_is_read_back_from_its_notation() -> None:
    networks = every_network()
    for network in networks:
        assert parse_candidate(network.notation) == network
        assert "\n" not in network.notation and " " not in network.notation
    for differs in ("id", "notation", "choices"):
        assert len({getattr(network, differs) for network in networks}) == len(networks)


def test_a_notation_is_as_documented() -> None:
    network = SPACE.decode([1, 0, 2])
    assert dict(network.choices) == {"width": 16, "kind": "a&b=c", "ratio": 0.25, "depth": 3}
    head, _, tail = network.notation.partition("?")
    assert head == f"{__name__}:build@3x32,n10"
    assert tail == "width=16&kind=%22a%26b%3Dc%22&ratio=0.25&depth=3"
    assert load_object(network.builder) is build
    assert network.image_shape == (1, 3, 32, 32)


def test_an_id_knows_the_builder_by_name_and_not_by_where_it_lies() -> None:
    network = replace(SPACE.decode([0, 0, 0]), builder="here/test_network_space.py:build")
    assert replace(network, builder="elsewhere/test_network_space.py:build").id == network.id
    assert replace(network, builder="elsewhere/other.py:build").id != network.id
    assert replace(network, input_size=64).id != network.id


def test_a_sample_is_of_the_space_and_follows_from_its_seed() -> None:
    tokens = [SPACE.sample(random.Random(seed)) for seed in (1, 1, 2, 3, 4)]
    assert tokens[0] == tokens[1]
    assert len(set(tokens)) > 1
    assert all(SPACE.decode(one) in every_network() for one in tokens)


def test_a_fingerprint_changes_with_whatever_a_token_can_mean() -> None:
    others = [
        NetworkSpace("tiny", CHOICES | {"width": (8, 24)}, build, (1, 3, 32, 32), 10),
        NetworkSpace("tiny", CHOICES | {"ratio": (0.5,)}, build, (1, 3, 32, 32), 10),
        NetworkSpace("tiny", CHOICES, build, (1, 3, 64, 64), 10),
        NetworkSpace("tiny", CHOICES, build, (1, 3, 32, 32), 11),
    ]
    assert len({space.fingerprint for space in (SPACE, *others)}) == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_shape": (1, 3, 32, 24)}, r"image_shape must be \(1, channels, size, size\)"),
        ({"image_shape": (2, 3, 32, 32)}, r"image_shape must be \(1, channels, size, size\)"),
        ({"choices": {"width": (8,)}}, "leaves something to choose"),
        ({"choices": {"width": (8, 8)}}, "two or more different choices"),
        ({"choices": {"width": ()}}, "two or more different choices"),
        ({"classes": 0}, "classes must be at least 1, not 0"),
    ],
)
def test_a_space_that_breaks_a_rule_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        replace(SPACE, **changes)


@pytest.mark.parametrize("tokens", [[0, 0], [0, 0, 0, 0], [2, 0, 0], [0, 0, -1]])
def test_tokens_of_another_space_are_refused(tokens: list[int]) -> None:
    with pytest.raises(SpaceError, match="token"):
        SPACE.decode(tokens)


@pytest.mark.parametrize(
    "text",
    [
        "m:f@3x32?a=1",
        "m:f@3x32,n10?",
        "m:f@3x32,n10?a",
        "m:f@3x32,n10?a=[1]",
        "m:f@3x32,n10?a=true",
        "m:f@3x32,n10?a=x",
        "f@3x32,n10?a=1",
        "m:f@0x32,n10?a=1",
        "m:f@3x0,n10?a=1",
    ],
)
def test_a_notation_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(SpaceError):
        parse_candidate(text)


def test_a_space_is_found_by_its_reference_and_blocks_by_their_names() -> None:
    found = find_space(f"{__name__}:SPACE")
    assert found.fingerprint == SPACE.fingerprint
    assert found.decode([0, 1, 1]) == SPACE.decode([0, 1, 1])
    in_file = find_space(f"{__file__}:SPACE")
    assert in_file.decode([0, 1, 1]).notation.startswith(f"{__file__}:build@")
    shipped = find_space("quickstart")
    assert shipped.fingerprint == load_space("quickstart").fingerprint
    with pytest.raises(SpaceError, match=r"is no space: .* this is dict"):
        find_space(f"{__file__}:CHOICES")
    with pytest.raises(SpaceError, match="not 'nowhere'"):
        find_space("nowhere")
