"""Operators into kernels, with three things that TVM's own way makes slow, and one that it makes wrong, done otherwise.

The image's transpose is inside the first convolution: no transposed copy of it is made. Where a convolution reads the
first channels alone (`models/padding.py`) it reads them where they are, not from a copy. A gate, one value a channel
that multiplies all pixels, is a kernel of its own: fused with what computes it, it would be computed anew for every
pixel. A padding on the far sides alone looks element-wise to TVM, which fuses it behind a convolution and never writes
the border: it is told that it is not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tvm
from tvm import relax, te, topi

from tvm_mnas.compiler.core.calls import operator_of
from tvm_mnas.compiler.lowering.half import HALF_MEANS
from tvm_mnas.compiler.lowering.operators import as_tvm_does, once
from tvm_mnas.cores.precision import FLOAT32, Precision

_TRANSPOSE = "relax.permute_dims"
_CAST = "relax.astype"
_SLICE = "relax.strided_slice"
OPAQUE = 8
"""The operator pattern that FuseOps leaves alone."""
_INJECTIVE = 2
"""The operator pattern that FuseOps fuses with what is element-wise, and never behind a convolution."""

_ELEMENTWISE = ("relax.add", "relax.nn.relu", "relax.minimum", "relax.maximum")
"""What networks have most of, beside convolutions."""


def legalize(module: Any, *, precision: Precision = FLOAT32) -> Any:
    """Return `module`, whose values are of `precision`, with its operators turned into kernels."""
    convolutions = relax.transform.LegalizeOps(
        {
            **{operator: once(as_tvm_does(operator)) for operator in _ELEMENTWISE},
            "relax.nn.conv2d": _legalize_convolution,
            "relax.multiply": _legalize_product,
            "relax.nn.pad": _legalize_padding,
            **(HALF_MEANS if precision.dtype == "float16" else {}),
        },
        skip_ops=[_TRANSPOSE, _CAST, _SLICE],
    )
    # A transpose or a slice that nobody reads any more must not become a kernel.
    return tvm.transform.Sequential(
        [convolutions, relax.transform.DeadCodeElimination(), relax.transform.LegalizeOps()]
    )(module)


def _legalize_convolution(builder: Any, call: Any) -> Any:
    attributes = call.attrs
    if attributes.out_layout != attributes.data_layout or len(attributes.kernel_layout) != 4:
        # TVM's own legalization leaves such a call alone too.
        return call
    images = before_transpose(builder, call)
    if images is not None:
        return _convolution(
            builder, call, images, lambda source, weights: transposed(source, weights.dtype)
        )
    images = before_slice(builder, call)
    if images is not None:
        return _convolution(builder, call, images, first_channels)
    return _CONVOLUTION(builder, call)


def _convolution(builder: Any, call: Any, images: Any, read: Callable[[Any, Any], Any]) -> Any:
    """Return the call of a kernel that convolves what `read(images, weights)` is, a part of the kernel."""
    attributes = call.attrs

    def convolution(source: Any, weights: Any) -> Any:
        inputs = read(source, weights)
        wider = attributes.out_dtype and str(attributes.out_dtype) != str(weights.dtype)
        return topi.nn.conv(
            # A step of its own, so that a schedule can cast several inputs at once.
            inp=topi.cast(inputs, attributes.out_dtype) if wider else inputs,
            filt=weights,
            stride=[int(extent) for extent in attributes.strides],
            padding=[int(extent) for extent in attributes.padding],
            dilation=[int(extent) for extent in attributes.dilation],
            groups=int(attributes.groups),
            data_layout=attributes.data_layout,
            kernel_layout=attributes.kernel_layout,
            out_dtype=attributes.out_dtype or None,
        )

    return builder.call_te(convolution, images, call.args[1], primfunc_name_hint="conv2d")


_CONVOLUTION = once(
    lambda builder, call: _convolution(builder, call, call.args[0], lambda images, weights: images)
)


def _legalize_product(builder: Any, call: Any) -> Any:
    if any(is_gate(builder, value, call) for value in call.args):
        return _GATE(builder, call)
    return _PRODUCT(builder, call)


_PRODUCT = once(
    lambda builder, call: builder.call_te(topi.multiply, *call.args, primfunc_name_hint="multiply")
)
_GATE = once(
    lambda builder, call: builder.call_te(
        topi.multiply,
        *call.args,
        primfunc_name_hint="gate",
        primfunc_attrs={"op_pattern": OPAQUE},
    )
)


def _legalize_padding(builder: Any, call: Any) -> Any:
    widths = call.attrs.pad_width
    around = {"pad_before": widths[::2], "pad_after": widths[1::2]}
    injective = {"op_pattern": _INJECTIVE}
    makers = {
        "reflect": topi.nn.reflect_pad,
        "replicate": topi.nn.replicate_pad,
        "circular": topi.nn.circular_pad,
    }
    maker = makers.get(str(call.attrs.pad_mode))
    if maker is not None:
        return builder.call_te(maker, call.args[0], **around, primfunc_attrs=injective)
    return builder.call_te(
        topi.nn.pad,
        call.args[0],
        **around,
        pad_value=call.attrs.pad_value,
        primfunc_name_hint="pad",
        primfunc_attrs=injective,
    )


def is_gate(builder: Any, value: Any, product: Any) -> bool:
    """Whether `value` is computed, and has one pixel where `product` has many."""
    if isinstance(value, relax.Var):
        bound = builder.lookup_binding(value)
        value = value if bound is None else bound
    if isinstance(value, tvm.ir.GenericConst) or not hasattr(value.ty, "shape"):
        return False
    shape = [int(extent) for extent in value.ty.shape]
    pixels = [int(extent) for extent in product.ty.shape]
    return len(shape) == len(pixels) == 4 and shape[1:3] == [1, 1] != pixels[1:3]


def transposed(images: Any, dtype: str) -> Any:
    """Return `images`, (N,C,H,W), as (N,H,W,C) of type `dtype`."""
    batch, channels, height, width = images.shape
    return te.compute(
        (batch, height, width, channels),
        lambda n, y, x, c: images[n, c, y, x].astype(dtype),
        name="pixels",
    )


def first_channels(images: Any, weights: Any) -> Any:
    """Return of `images`, (N,H,W,C), the first channels, as many as `weights`, (H,W,I,O), have inputs."""
    *around, _ = images.shape
    return te.compute((*around, weights.shape[2]), lambda *at: images[at], name="channels")


def before_transpose(builder: Any, call: Any) -> Any:
    """Return the network's input if the convolution `call` reads it transposed to (N,H,W,C), else None.

    It may have been cast on the way to the convolution's type.
    """
    if call.attrs.data_layout != "NHWC" or not isinstance(call.args[0], relax.Var):
        return None
    source = builder.lookup_binding(call.args[0])
    if operator_of(source) != _TRANSPOSE or source.attrs.axes is None:
        return None
    if [int(axis) for axis in source.attrs.axes] != [0, 2, 3, 1]:
        return None
    images = source.args[0]
    if not isinstance(images, relax.Var):
        return None
    cast = builder.lookup_binding(images)
    if operator_of(cast) == _CAST:
        images = cast.args[0]
    is_input = isinstance(images, relax.Var) and builder.lookup_binding(images) is None
    return images if is_input else None


def before_slice(builder: Any, call: Any) -> Any:
    """Return the values, (N,H,W,C), whose first channels the convolution `call` reads, None if it reads others."""
    attributes = call.attrs
    layouts = (attributes.data_layout, attributes.kernel_layout)
    if layouts != ("NHWC", "HWIO") or int(attributes.groups) > 1:
        return None
    if not isinstance(call.args[0], relax.Var):
        return None
    bound = builder.lookup_binding(call.args[0])
    if operator_of(bound) != _SLICE:
        return None
    axes, begin, end = ([int(one.value) for one in part.fields] for part in bound.args[1:4])
    *_, channels = (int(extent) for extent in call.args[0].ty.shape)
    return bound.args[0] if (axes, begin, end) == ([3], [0], [channels]) else None
