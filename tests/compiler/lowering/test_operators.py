"""An operator's kernel is made once, and is what TVM makes of each call anew."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tvm_ffi
from tvm import relax

from tvm_mnas.compiler.lowering.operators import as_tvm_does, once

_OPERATORS = ("relax.add", "relax.nn.relu", "relax.minimum", "relax.nn.conv2d", "relax.mean")
_IMAGES = relax.TensorType((1, 8, 8, 16), "float32")


def _module(*attributes: dict[str, Any]) -> Any:
    """Return a chain of convolutions with these attributes, each with a bias, an activation and a bound."""
    builder = relax.BlockBuilder()
    images = relax.Var("images", _IMAGES)
    weights = relax.const(np.ones((3, 3, 16, 16), "float32"))
    with builder.function("main", [images]):
        with builder.dataflow():
            value: Any = images
            for one in attributes:
                value = builder.emit(
                    relax.op.nn.conv2d(
                        value, weights, data_layout="NHWC", kernel_layout="HWIO", **one
                    )
                )
                value = builder.emit(relax.op.add(value, relax.const(np.ones(16, "float32"))))
                value = builder.emit(relax.op.nn.relu(value))
                value = builder.emit(relax.op.minimum(value, relax.const(6.0, "float32")))
            value = builder.emit(relax.op.mean(value, [1, 2]))
            output = builder.emit_output(value)
        builder.emit_func_output(output)
    return builder.finalize()


def _legalized(module: Any, *, remembered: bool) -> Any:
    ways = {name: as_tvm_does(name) for name in _OPERATORS}
    if remembered:
        ways = {name: once(way) for name, way in ways.items()}
    return relax.transform.LegalizeOps(ways)(module)


_PADDED: dict[str, Any] = {"padding": [1, 1]}
_SPREAD: dict[str, Any] = {"padding": [2, 2], "dilation": [2, 2]}


@pytest.mark.parametrize(
    "attributes", [[_PADDED], [_PADDED, _SPREAD, _PADDED, {"strides": [2, 2]}]]
)
def test_the_kernels_are_those_that_are_made_anew(attributes: list[dict[str, Any]]) -> None:
    module = _module(*attributes)
    expected = _legalized(module, remembered=False)
    for _ in range(2):
        assert tvm_ffi.structural_equal(_legalized(module, remembered=True), expected)


def test_a_call_whose_like_was_met_makes_no_kernel() -> None:
    made: list[str] = []

    def counted(builder: Any, call: Any) -> Any:
        made.append(str(call.op.name))
        return as_tvm_does("relax.add")(builder, call)

    way = once(counted)
    for extents in [(4, 6), (4, 6), (4, 7), (4, 6)]:
        builder = relax.BlockBuilder()
        one, other = (relax.Var(name, relax.TensorType(extents, "float32")) for name in "ab")
        call = builder.normalize(relax.op.add(one, other))
        assert list(way(builder, call).args[1]) == [one, other]
    assert len(made) == 2


def test_a_number_becomes_part_of_its_kernel() -> None:
    names = {
        str(function.script())
        for bound in (6.0, 4.0)
        for variable, function in _legalized(_bounded(bound), remembered=True).functions_items()
        if variable.name_hint == "minimum"
    }
    assert len(names) == 2


def _bounded(bound: float) -> Any:
    builder = relax.BlockBuilder()
    images = relax.Var("images", _IMAGES)
    with builder.function("main", [images]):
        builder.emit_func_output(
            builder.emit(relax.op.minimum(images, relax.const(bound, "float32")))
        )
    return builder.finalize()
