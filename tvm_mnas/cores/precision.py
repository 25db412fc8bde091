"""In which floating-point format a network is computed: what the device profile says and the compiler does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from tvm_mnas.errors import ProfileError

Dtype: TypeAlias = Literal["float32", "float16"]
DTYPES: tuple[str, ...] = get_args(Dtype)


@dataclass(frozen=True, slots=True)
class Precision:
    """The type of weights and activations, `dtype`, and that of the sums in convolutions and products, `accumulator`.

    Raises:
        ProfileError: if one is neither "float32" nor "float16", or sums of float32 are kept in less.
    """

    dtype: Dtype = "float32"
    accumulator: Dtype = "float32"

    def __post_init__(self) -> None:
        for name in ("dtype", "accumulator"):
            value = getattr(self, name)
            if value not in DTYPES:
                raise ProfileError(f"{name} must be {' or '.join(DTYPES)}, not {value!r}")
        if self.dtype == "float32" != self.accumulator:
            raise ProfileError(
                f"accumulator must be float32 where dtype is float32, not {self.accumulator!r}"
            )

    def __str__(self) -> str:
        """Return it in words: "float16, sums in float32"."""
        return (
            self.dtype
            if self.dtype == self.accumulator
            else f"{self.dtype}, sums in {self.accumulator}"
        )


FLOAT32 = Precision()
