"""What an export tells about its origin; tests/integration exports whole networks."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError

import pytest

from tvm_mnas.search import export


@pytest.mark.parametrize("distribution", ["xgboost-cpu", "xgboost"])
def test_the_version_of_xgboost_is_that_of_the_distribution_that_is_installed(
    monkeypatch: pytest.MonkeyPatch, distribution: str
) -> None:
    def version(name: str) -> str:
        if name != distribution:
            raise PackageNotFoundError(name)
        return "3.2.0"

    monkeypatch.setattr(export, "version", version)
    assert export._xgboost_version() == "3.2.0"
