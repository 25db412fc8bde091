"""The data that ships is found in a checkout, and the package's own copy wins."""

from __future__ import annotations

from pathlib import Path

import pytest

from tvm_mnas import resources
from tvm_mnas.errors import TvmMnasError
from tvm_mnas.resources import RESOURCE_KINDS, profiles_directory, resource_directory


@pytest.mark.parametrize("kind", RESOURCE_KINDS)
def test_every_kind_is_found_and_holds_something(kind: str) -> None:
    assert any(resource_directory(kind).iterdir())


def test_the_spaces_and_profiles_lie_where_they_are_looked_for() -> None:
    assert (resource_directory("search_space") / "mnasnet.toml").is_file()
    assert (profiles_directory() / "local.toml").is_file()


def test_the_packages_copy_wins_over_the_checkouts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "tvm_mnas"
    checkout = tmp_path / "rpc"
    package.mkdir()
    checkout.mkdir()
    monkeypatch.setattr(resources, "_PACKAGE", package)
    assert resource_directory("rpc") == checkout
    packaged = package / "_data" / "rpc"
    packaged.mkdir(parents=True)
    assert resource_directory("rpc") == packaged


def test_a_broken_installation_says_how_to_mend_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "_PACKAGE", tmp_path / "tvm_mnas")
    with pytest.raises(TvmMnasError, match=r"tuning_logs.*pip install"):
        resource_directory("tuning_logs")


def test_an_unknown_kind_is_the_callers_mistake() -> None:
    with pytest.raises(ValueError, match="'spaces'"):
        resource_directory("spaces")
