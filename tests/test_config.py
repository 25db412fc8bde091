"""The configuration: what it takes, what it refuses in one line, and that a file brings it back."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path

import pytest

from tvm_mnas.config import SearchConfig, parse_untuned_share, read_settings
from tvm_mnas.errors import ConfigError
from tvm_mnas.plugins import ALGORITHMS

SETTINGS = [field.name for field in dataclasses.fields(SearchConfig)]


def refused(**values: object) -> str:
    """Return the one line with which `values` are refused, read from a file."""
    with pytest.raises(ConfigError) as caught:
        SearchConfig.from_mapping(values, source="my.toml")
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith("my.toml: ")
    return text


CONFIGS = {
    "defaults": SearchConfig(),
    "all else": SearchConfig(
        space="my/space.toml",
        device="my/board.toml",
        data="imagefolder:/data/with space",
        target_latency_ms=80.0,
        alpha=0.0,
        beta=-1.0,
        algorithm="evolution",
        trials=1000,
        batch=10,
        seed=7,
        train_steps=1,
        train_batch=1,
        learning_rate=1e-05,
        schedules_per_kernel=64,
        max_untuned_share=0.05,
        finalists=1,
        final_steps=5,
        jobs=3,
        records="elsewhere",
    ),
    "whole numbers": SearchConfig(target_latency_ms=80, alpha=0, beta=-1),
    "extreme numbers": SearchConfig(target_latency_ms=1e-9, learning_rate=1e22, seed=2**62),
    "awkward texts": SearchConfig(
        data='idx:/a "b" \\c\td\x7f', space="ä/Ω.toml", records="runs of 🦊 and 蜂/tuning"
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_configuration_comes_back_from_its_file(name: str, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(CONFIGS[name].to_toml(), encoding="utf-8")
    settings = read_settings(file)
    assert list(settings) == SETTINGS, "a run's file holds every setting"
    assert SearchConfig.from_mapping(settings, source=str(file)) == CONFIGS[name]


def test_a_file_changes_what_it_names_and_nothing_else() -> None:
    config = SearchConfig.from_mapping({"trials": 5, "seed": 3}, source="my.toml")
    assert config == dataclasses.replace(SearchConfig(), trials=5, seed=3)
    assert SearchConfig.from_mapping({}, source="my.toml") == SearchConfig()


def test_the_defaults_need_neither_device_nor_data() -> None:
    config = SearchConfig()
    assert (config.space, config.device, config.data) == ("quickstart", "local", "embedded")
    # Twenty-four different candidates are promised, and some trials meet one again.
    assert config.trials > 24


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("5%", 0.05),
        ("0.05", 0.05),
        (" 2.5 % ", 0.025),
        (".5%", 0.005),
        ("0", 0.0),
        ("99.9%", 0.999),
    ],
)
def test_a_part_of_the_run_time_is_read_with_or_without_its_sign(text: str, share: float) -> None:
    assert parse_untuned_share(text) == pytest.approx(share, rel=1e-15)


@pytest.mark.parametrize(
    "text", ["", "%", "5", "1", "100%", "-5%", "-0.05", "nan", "inf", "1e-2", "5%%", "5 ms", "5,0%"]
)
def test_what_is_no_part_of_the_run_time_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--allow-untuned 5%") as caught:
        parse_untuned_share(text)
    assert repr(text) in str(caught.value)


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        SearchConfig().trials = 3  # type: ignore[misc]


@pytest.mark.parametrize("algorithm", ALGORITHMS.names)
def test_every_algorithm_is_taken(algorithm: str) -> None:
    assert SearchConfig(algorithm=algorithm).algorithm == algorithm


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *((key, 3) for key in ("space", "device", "data", "algorithm", "records")),
        *((key, "") for key in ("space", "device", "data", "algorithm", "records")),
        *((key, ["local"]) for key in ("device", "data")),
        *((key, value) for key in ("trials", "seed", "jobs") for value in ("3", 3.0, True, [3])),
        *((key, value) for key in ("target_latency_ms", "alpha") for value in ("80ms", True, [])),
        ("target_latency_ms", float("nan")),
        ("learning_rate", float("inf")),
        ("beta", float("-inf")),
    ],
)
def test_a_value_of_another_type_is_named(key: str, value: object) -> None:
    text = refused(**{key: value})
    assert key in text
    assert repr(value) in text


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(
            (key, value)
            for key in (
                "trials",
                "batch",
                "schedules_per_kernel",
                "finalists",
            )
            for value in (0, -3)
        ),
        ("seed", -1),
        ("jobs", -1),
        ("target_latency_ms", 0),
        ("target_latency_ms", -80.0),
        *(
            (key, -1)
            for key in (
                "train_steps",
                "train_epochs",
                "train_batch",
                "learning_rate",
                "final_steps",
            )
        ),
        ("alpha", 0.07),
        ("beta", 1),
        ("max_untuned_share", -0.05),
        ("max_untuned_share", 1),
        ("max_untuned_share", 5.0),
    ],
)
def test_a_value_that_breaks_a_rule_is_named(key: str, value: float) -> None:
    text = refused(**{key: value})
    assert f"{key} must be " in text
    assert str(value) in text


def test_an_unknown_algorithm_is_named_with_those_there_are() -> None:
    text = refused(algorithm="magic")
    assert "'magic'" in text
    for algorithm in ALGORITHMS.names:
        assert algorithm in text


def test_an_unknown_setting_is_named_with_those_there_are() -> None:
    text = refused(trails=3)
    assert "trails" in text
    for name in SETTINGS:
        assert name in text


def test_settings_are_read_as_they_are_written(tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text('trials = 5\nspace = "mnasnet"\n')
    assert read_settings(file) == {"trials": 5, "space": "mnasnet"}


@pytest.mark.parametrize(
    "content", [b"trials =", b"trials 5", b'space = "a\n', b"\xff\xfe\x00", b"trials=1\ntrials=2"]
)
def test_a_file_that_is_not_toml_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "my.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_settings(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["absent.toml", "."])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_settings(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_the_file_is_plain_toml() -> None:
    values = tomllib.loads(SearchConfig().to_toml())
    assert values == dataclasses.asdict(SearchConfig())


def test_paths_are_taken_from_where_the_search_was_started(tmp_path: Path) -> None:
    config = SearchConfig(
        space="shoes/space.toml",
        device="../pi.toml",
        data="imagefolder:my shoes",
        trainer="train.py:train",
        algorithm="package.module:make",
        records="/srv/records",
    ).located(tmp_path / "here")
    assert config == SearchConfig(
        space=f"{tmp_path}/here/shoes/space.toml",
        device=f"{tmp_path}/pi.toml",
        data=f"imagefolder:{tmp_path}/here/my shoes",
        trainer=f"{tmp_path}/here/train.py:train",
        algorithm="package.module:make",
        records="/srv/records",
    )
    assert config.located(tmp_path / "elsewhere") == config


@pytest.mark.parametrize("data", ["embedded", "package.module:SHOES:place", "shoes:place"])
def test_what_is_no_path_stays(data: str, tmp_path: Path) -> None:
    config = SearchConfig(data=data)
    assert config.located(tmp_path) == dataclasses.replace(
        config, records=f"{tmp_path}/tuning_logs"
    )
    own = SearchConfig(data="data.py:SHOES:place").located(tmp_path)
    assert own.data == f"{tmp_path}/data.py:SHOES:place"
