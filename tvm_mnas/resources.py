"""Finds the data that ships beside the code: spaces, device profiles, tuning records, recipes.

In an installed wheel it lies in the package, in a checkout at the top level.
"""

from __future__ import annotations

from pathlib import Path

from tvm_mnas.errors import TvmMnasError

RESOURCE_KINDS = ("search_space", "rpc", "tuning_logs", "recipes")
"""The top-level directories that ship."""

_PACKAGE = Path(__file__).resolve().parent


def resource_directory(kind: str) -> Path:
    """Return the directory of a kind of resources, one of `RESOURCE_KINDS`.

    Raises:
        ValueError: if there is no such kind.
        TvmMnasError: if the installation lacks it.
    """
    if kind not in RESOURCE_KINDS:
        raise ValueError(f"a kind of resources must be one of {RESOURCE_KINDS}, not {kind!r}")
    # An editable install has no packaged copy, so a checkout is looked at second.
    for directory in (_PACKAGE / "_data" / kind, _PACKAGE.parent / kind):
        if directory.is_dir():
            return directory
    raise TvmMnasError(
        f"this installation of tvm-mnas lacks its {kind} directory; "
        f"install it again: pip install --force-reinstall tvm-mnas"
    )


def profiles_directory() -> Path:
    """Return the directory of the device profiles that ship."""
    return resource_directory("rpc") / "profiles"
