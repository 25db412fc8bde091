"""Formats of arithmetic: what there is, and how it is called."""

from __future__ import annotations

from typing import Any

import pytest

from tvm_mnas.cores.precision import FLOAT32, Dtype, Precision, precision_of
from tvm_mnas.errors import ProfileError


@pytest.mark.parametrize(
    ("precision", "text"),
    [
        (FLOAT32, "float32"),
        (Precision("float16", "float16"), "float16"),
        (Precision("float16", "float32"), "float16, sums in float32"),
        (Precision("bfloat16"), "bfloat16, sums in float32"),
    ],
)
def test_it_is_named_in_words(precision: Precision, text: str) -> None:
    assert str(precision) == text


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("float64", "float64"), "dtype must be float32, float16 or bfloat16, not 'float64'"),
        (("float16", "half"), "accumulator must be float32, float16 or bfloat16, not 'half'"),
        (("float32", "float16"), "accumulator must be float32 where dtype is float32"),
        (("bfloat16", "bfloat16"), "accumulator must be float32 where dtype is bfloat16"),
        (("float16", "bfloat16"), "accumulator must be float32 or float16 where dtype is float16"),
        (([], "float32"), "dtype must be"),
    ],
)
def test_another_format_is_refused(names: tuple[Any, Any], message: str) -> None:
    with pytest.raises(ProfileError, match=message):
        Precision(*names)


@pytest.mark.parametrize(
    ("dtype", "accumulator"),
    [("float32", "float32"), ("float16", "float16"), ("bfloat16", "float32")],
)
def test_sums_are_in_the_same_format_where_a_core_sums_in_it(
    dtype: Dtype, accumulator: Dtype
) -> None:
    assert precision_of(dtype, None) == Precision(dtype, accumulator)
    assert precision_of(dtype, "float32") == Precision(dtype, "float32")
