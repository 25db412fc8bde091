"""Space files: TOML -> `SearchSpace`, and where the files that ship are.

What a file may say stands in `reference.py`, which `tvm-mnas space reference` prints; nothing else is read.
Scaled filters are rounded to multiples of eight as the MnasNet authors round, layers are at least one, and
values that become equal count once.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TypeVar

from tvm_mnas.errors import SpaceError
from tvm_mnas.resources import resource_directory
from tvm_mnas.space.architecture import round_filters
from tvm_mnas.space.reference import key_names
from tvm_mnas.space.space import BlockSpace, SearchSpace

_T = TypeVar("_T")


def load_space(name_or_path: str) -> SearchSpace:
    """Return the space that ships under this name, or the one in this file.

    Raises:
        SpaceError: if there is neither, or the file breaks a rule.
    """
    if name_or_path.endswith(".toml") or "/" in name_or_path:
        return read_space(Path(name_or_path))
    names = space_names()
    if name_or_path not in names:
        raise SpaceError(
            f"a space must be a TOML file or one of {', '.join(names)}, not {name_or_path!r}; "
            f"`tvm-mnas space list` describes them"
        )
    return read_space(resource_directory("search_space") / f"{name_or_path}.toml")


def space_names() -> tuple[str, ...]:
    """Return the names of the spaces that ship."""
    return tuple(sorted(path.stem for path in resource_directory("search_space").glob("*.toml")))


def read_space(path: Path) -> SearchSpace:
    """Return the space in the file `path`.

    Raises:
        SpaceError: one line naming the file, the key, the rule and the value.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SpaceError(
            f"cannot read the space file {path}: {error.strerror}; "
            f"`tvm-mnas space list` lists the spaces that ship"
        ) from error
    except UnicodeDecodeError as error:
        raise SpaceError(f"{path}: a space file is valid TOML: {error}") from error
    return parse_space(text, path)


def parse_space(text: str, path: Path) -> SearchSpace:
    """Return the space in the TOML `text`, which errors call `path`.

    Raises:
        SpaceError: one line naming the file, the key, the rule and the value.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SpaceError(f"{path}: a space file is valid TOML: {error}") from error
    top = _Table(path, "", document)
    top.only((*key_names(""), "input", "stem", "head", "choices", "blocks"))
    source = top.table("input", key_names("input"))
    stem = top.table("stem", key_names("stem"))
    head = top.table("head", key_names("head"))
    defaults = top.table("choices", key_names("choices"), required=False)
    input_size = source.integer("size")
    stem_stride = stem.integer("stride")
    resolution = -(-input_size // stem_stride)
    blocks: list[BlockSpace] = []
    for block in top.tables("blocks"):
        blocks.append(_read_block(block, defaults, resolution))
        resolution = -(-resolution // blocks[-1].stride)
    name = top.text("name")
    return top.checked(
        lambda: SearchSpace(
            name=name,
            blocks=tuple(blocks),
            input_size=input_size,
            input_channels=source.integer("channels"),
            stem_filters=stem.integer("filters"),
            stem_stride=stem_stride,
            head_filters=head.integer("filters"),
            classes=source.integer("classes"),
            depth_multiplier=source.number("depth_multiplier", 1.0),
        )
    )


def _read_block(block: _Table, defaults: _Table, resolution: int) -> BlockSpace:
    block.only((*key_names("blocks"), *key_names("choices")))
    if block.integer("resolution") != resolution:
        block.fail("resolution", f"the resolution that the strides before it leave, {resolution}")

    def choices(key: str, kinds: tuple[type, ...]) -> list[str | int | float]:
        return (block if key in block.values else defaults).list_of(key, kinds)

    filters, layers = block.integer("filters"), block.integer("layers")
    scales = choices("filter_scale", (int, float))
    deltas = choices("layer_delta", (int,))
    for scale in scales:
        if float(scale) <= 0:
            (block if "filter_scale" in block.values else defaults).fail(
                "filter_scale", "a list of numbers above 0"
            )
    return block.checked(
        lambda: BlockSpace(
            stride=block.integer("stride"),
            operations=tuple(str(value) for value in choices("conv_op", (str,))),
            kernel_sizes=tuple(int(value) for value in choices("kernel_size", (int,))),
            skip_ops=tuple(str(value) for value in choices("skip_op", (str,))),
            se_ratios=tuple(float(value) for value in choices("se_ratio", (int, float))),
            filters=_unique(
                filters if scale == 1 else round_filters(filters * float(scale)) for scale in scales
            ),
            layers=_unique(max(1, layers + int(delta)) for delta in deltas),
        )
    )


def _unique(values: Iterable[int]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(values))


@dataclass(frozen=True)
class _Table:
    """One TOML table that knows its file and its place, so that each error can name both."""

    path: Path
    place: str
    values: Mapping[str, object]

    def fail(self, key: str, rule: str) -> NoReturn:
        received = f"not {self.values[key]!r}" if key in self.values else "but it is missing"
        raise SpaceError(f"{self.path}: {self.place}{key} is {rule}, {received}")

    def checked(self, build: Callable[[], _T]) -> _T:
        """Return what `build` returns, its errors prefixed with file and place."""
        try:
            return build()
        except SpaceError as error:
            if str(error).startswith(f"{self.path}: "):
                raise
            raise SpaceError(f"{self.path}: {self.place}{error}") from error

    def only(self, keys: Sequence[str]) -> None:
        for key in self.values:
            if key not in keys:
                raise SpaceError(
                    f"{self.path}: {self.place}{key} is not a key here, only {', '.join(keys)} are"
                )

    def table(self, key: str, keys: Sequence[str], *, required: bool = True) -> _Table:
        value = self.values.get(key, None if required else {})
        if not isinstance(value, dict):
            self.fail(key, "a table")
        table = _Table(self.path, f"{self.place}{key}.", value)
        table.only(keys)
        return table

    def tables(self, key: str) -> list[_Table]:
        value = self.values.get(key)
        if not isinstance(value, list) or not value or not all(isinstance(v, dict) for v in value):
            self.fail(key, f"one or more [[{key}]] tables")
        return [
            _Table(self.path, f"{key}[{number}].", item)
            for number, item in enumerate(value, start=1)
        ]

    def text(self, key: str) -> str:
        value = self.values.get(key)
        if not isinstance(value, str) or not value:
            self.fail(key, "a text that is not empty")
        return value

    def integer(self, key: str) -> int:
        value = self.values.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            self.fail(key, "a whole number of 1 or more")
        return value

    def number(self, key: str, default: float) -> float:
        value = self.values.get(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool):
            self.fail(key, "a number")
        return float(value)

    def list_of(self, key: str, kinds: tuple[type, ...]) -> list[str | int | float]:
        value = self.values.get(key)
        names = " or ".join(kind.__name__ for kind in kinds)
        if (
            not isinstance(value, list)
            or not value
            or not all(isinstance(v, kinds) and not isinstance(v, bool) for v in value)
        ):
            self.fail(key, f"a list of one or more values of type {names}")
        return value
