"""What a search is for: the networks that its space means."""

from __future__ import annotations

import random

import pytest

from tvm_mnas.config import DETECTION, SearchConfig
from tvm_mnas.errors import ConfigError, DataError
from tvm_mnas.search.task import space_of
from tvm_mnas.space.architecture import Architecture
from tvm_mnas.space.detector import DetectorArchitecture, DetectorSpace


def test_without_a_task_a_space_means_its_networks() -> None:
    space = space_of(SearchConfig())
    assert isinstance(space.decode(space.sample(random.Random(0))), Architecture)


def test_detectors_tell_the_classes_of_the_data_apart() -> None:
    config = SearchConfig(task="detection", space="quickstart", data="drawn")
    space = space_of(config)
    assert isinstance(space, DetectorSpace)
    detector = space.decode(space.sample(random.Random(0)))
    assert isinstance(detector, DetectorArchitecture)
    assert detector.classes == 3


def test_its_defaults_go_with_the_task_and_what_is_said_stays() -> None:
    config = SearchConfig.from_mapping({"task": "detection", "trials": 5}, source="here")
    assert {name: getattr(config, name) for name in DETECTION} == {**DETECTION, "trials": 5}
    assert SearchConfig(task="detection", trials=5).with_defaults_of_its_task() == config
    assert SearchConfig().with_defaults_of_its_task() == SearchConfig()


def test_another_task_is_refused() -> None:
    with pytest.raises(
        ConfigError, match="task must be classification or detection, not 'segment'"
    ):
        SearchConfig(task="segment")


def test_a_backbone_is_of_blocks_and_the_data_is_there() -> None:
    own = SearchConfig(task="detection", space="tests.training.colours:SPACE", data="drawn")
    with pytest.raises(ConfigError):
        space_of(own)
    with pytest.raises(DataError, match="is none"):
        space_of(SearchConfig(task="detection", space="quickstart", data="coco:/nowhere"))
