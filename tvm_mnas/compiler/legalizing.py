"""Operators into kernels, the image's transpose inside the first convolution: no transposed copy of it is made."""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax, te, topi

_TRANSPOSE = "relax.permute_dims"


def legalize(module: Any) -> Any:
    """Return `module` with its operators turned into kernels; a convolution of a transposed input reads the input."""
    convolutions = relax.transform.LegalizeOps(
        {"relax.nn.conv2d": _legalize_convolution}, skip_ops=[_TRANSPOSE]
    )
    # A transpose that nobody reads any more must not become a kernel.
    return tvm.transform.Sequential(
        [convolutions, relax.transform.DeadCodeElimination(), relax.transform.LegalizeOps()]
    )(module)


def _legalize_convolution(builder: Any, call: Any) -> Any:
    attributes = call.attrs
    if attributes.out_layout != attributes.data_layout or len(attributes.kernel_layout) != 4:
        # TVM's own legalization leaves such a call alone too.
        return call
    images = _before_transpose(builder, call)

    def convolution(source: Any, weights: Any) -> Any:
        return topi.nn.conv(
            inp=source if images is None else _transposed(source),
            filt=weights,
            stride=[int(extent) for extent in attributes.strides],
            padding=[int(extent) for extent in attributes.padding],
            dilation=[int(extent) for extent in attributes.dilation],
            groups=int(attributes.groups),
            data_layout=attributes.data_layout,
            kernel_layout=attributes.kernel_layout,
            out_dtype=attributes.out_dtype or None,
        )

    return builder.call_te(
        convolution,
        call.args[0] if images is None else images,
        call.args[1],
        primfunc_name_hint="conv2d",
    )


def _transposed(images: Any) -> Any:
    batch, channels, height, width = images.shape
    return te.compute(
        (batch, height, width, channels), lambda n, y, x, c: images[n, c, y, x], name="pixels"
    )


def _before_transpose(builder: Any, call: Any) -> Any:
    """Return the network's input if the convolution `call` reads it transposed to (N,H,W,C), else None."""
    if call.attrs.data_layout != "NHWC" or not isinstance(call.args[0], relax.Var):
        return None
    source = builder.lookup_binding(call.args[0])
    if not isinstance(source, relax.Call) or not isinstance(source.op, tvm.ir.Op):
        return None
    if source.op.name != _TRANSPOSE or source.attrs.axes is None:
        return None
    if [int(axis) for axis in source.attrs.axes] != [0, 2, 3, 1]:
        return None
    images = source.args[0]
    is_input = isinstance(images, relax.Var) and builder.lookup_binding(images) is None
    return images if is_input else None
