"""In which floating-point format a network is computed: what the device profile says and the compiler does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, TypeAlias, get_args

from tvm_mnas.errors import ProfileError

Dtype: TypeAlias = Literal["float32", "float16", "bfloat16"]
DTYPES: tuple[str, ...] = get_args(Dtype)
_ACCUMULATORS: Mapping[Dtype, tuple[Dtype, ...]] = MappingProxyType(
    {"float32": ("float32",), "float16": ("float32", "float16"), "bfloat16": ("float32",)}
)
"""What sums are kept in: a multiply-add of float32 or bfloat16 has sums in float32."""


@dataclass(frozen=True, slots=True)
class Precision:
    """The type of weights and activations, `dtype`, and that of the sums in convolutions and products, `accumulator`.

    Raises:
        ProfileError: if one is none of these, or sums are kept in what no core sums them in.
    """

    dtype: Dtype = "float32"
    accumulator: Dtype = "float32"

    def __post_init__(self) -> None:
        for name in ("dtype", "accumulator"):
            value = getattr(self, name)
            if value not in DTYPES:
                *others, last = DTYPES
                raise ProfileError(f"{name} must be {', '.join(others)} or {last}, not {value!r}")
        if self.accumulator not in _ACCUMULATORS[self.dtype]:
            raise ProfileError(
                f"accumulator must be {' or '.join(_ACCUMULATORS[self.dtype])} where dtype is {self.dtype}, "
                f"not {self.accumulator!r}"
            )

    def __str__(self) -> str:
        """Return it in words: "float16, sums in float32"."""
        return (
            self.dtype
            if self.dtype == self.accumulator
            else f"{self.dtype}, sums in {self.accumulator}"
        )


FLOAT32 = Precision()


def precision_of(dtype: Dtype, accumulator: Dtype | None) -> Precision:
    """Return the precision of `dtype` with sums in `accumulator`; where that is None in `dtype`, if a core sums in it.

    Raises:
        ProfileError: as `Precision` does.
    """
    if accumulator is None:
        accumulator = "float32" if dtype == "bfloat16" else dtype
    return Precision(dtype, accumulator)
