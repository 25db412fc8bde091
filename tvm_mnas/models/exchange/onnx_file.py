"""An ONNX file as people have it: its open shape closed, its constants folded; or refused before anything is tuned.

Folding and shapes are ONNX Runtime's, which also judges the compiled network: what it cannot run is refused here.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from tvm_mnas.errors import ConfigError, LoweringError, first_line, raise_if_foreign

Shape = tuple[int, int, int, int]

_INPUT_TYPES = {TensorProto.FLOAT: "float32", TensorProto.UINT8: "uint8"}
_QUIET = 4
"""ONNX Runtime's log level at which it prints nothing."""
_QUANTIZED = (
    "QuantizeLinear",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "QLinearConv",
    "QLinearMatMul",
    "ConvInteger",
    "MatMulInteger",
)
_CONTROL_FLOW = ("If", "Loop", "Scan", "SequenceMap")
_EXAMPLE = (1, 3, 224, 224)


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """A network with one image as its input, of a fixed shape; `model` has its constants folded, `serialized` has not.

    `input_shape` is (N,C,H,W), or (N,H,W,C) where the network takes images so; `input_dtype` float32 or uint8.
    `assumed` says in a line what was open in the file and how it was closed, None if nothing was.
    """

    path: Path
    input_name: str
    input_shape: Shape
    input_dtype: str
    assumed: str | None
    model: Any = field(repr=False, compare=False)
    serialized: bytes = field(repr=False, compare=False)

    def outputs(self, images: NDArray[np.generic]) -> tuple[NDArray[np.generic], ...]:
        """Return every output for `images` (K and the other axes of `input_shape`), as ONNX Runtime computes them.

        K must be a multiple of the N of `input_shape`.

        Raises:
            LoweringError: if ONNX Runtime cannot run the network.
        """
        import onnxruntime

        try:
            session = onnxruntime.InferenceSession(
                self.serialized, _session_options(), providers=["CPUExecutionProvider"]
            )
            size = self.input_shape[0]
            parts = [
                session.run(None, {self.input_name: images[at : at + size]})
                for at in range(0, len(images), size)
            ]
        except Exception as error:
            raise_if_foreign(error)
            raise LoweringError(
                f"cannot run {self.path} in ONNX Runtime, which judges the compiled network: {first_line(error)}"
            ) from error
        return tuple(
            np.concatenate([np.asarray(part[i]) for part in parts]) for i in range(len(parts[0]))
        )


def read_onnx(path: Path, *, input_shape: Shape | None = None) -> OnnxFile:
    """Return the network in the ONNX file `path`; `input_shape` closes axes that are open in the file.

    An open batch is 1 where nothing else is said.

    Raises:
        ConfigError: if the file cannot be read, or its input's shape is open or another.
        LoweringError: if the network cannot be compiled; the text names the node, its operator and a remedy.
    """
    model = _load(path)
    if not model.graph.node:
        raise ConfigError(f"cannot read {path}: there is no network in it; export it again")
    source = _image_input(path, model)
    _refuse_operators(path, model.graph)
    shape, assumed = _closed(path, source, input_shape)
    _set_shape(model, source, shape)
    dtype = _INPUT_TYPES[source.type.tensor_type.elem_type]
    serialized = model.SerializeToString()
    return OnnxFile(path, source.name, shape, dtype, assumed, _folded(path, serialized), serialized)


def describe_node(node: Any) -> str:
    """Return what an error calls a node of the graph."""
    return f"node {node.name or node.output[0]!r}, operator {node.op_type}"


def runtime_version() -> str:
    """Return the version of ONNX Runtime."""
    import onnxruntime

    return str(onnxruntime.__version__)


def _load(path: Path) -> Any:
    try:
        return onnx.load(str(path))
    except FileNotFoundError as error:
        raise ConfigError(
            f"cannot read {path}: {first_line(error)}; put the file with its weights beside it, or export with the "
            f"weights inside"
        ) from error
    except Exception as error:
        raise_if_foreign(error)
        # onnx.checker's error for data that is missing names the file; protobuf's for what is no ONNX says little.
        raise ConfigError(
            f"cannot read {path} as an ONNX file: {first_line(error)}; check that it is whole, with all files that "
            f"the exporter wrote beside it"
        ) from error


def _image_input(path: Path, model: Any) -> Any:
    """Return the one input, and take constants that the file also lists as inputs off that list."""
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    del graph.input[:]
    graph.input.extend(inputs)
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs) or "none"
        raise LoweringError(
            f"cannot compile {path}: a network must have one input, an image, and this one has {len(inputs)} "
            f"({names}); export the others as constants"
        )
    # The graph has a copy of it.
    source = graph.input[0]
    element = source.type.tensor_type.elem_type
    if element not in _INPUT_TYPES:
        kind = TensorProto.DataType.Name(element).lower()
        raise LoweringError(
            f"cannot compile {path}: its input {source.name!r} must be float32 or uint8, not {kind}; export the "
            f"network in float32"
        )
    return source


def _refuse_operators(path: Path, graph: Any) -> None:
    """Refuse what no part of the toolchain has, by the name of the node."""
    for tensor in graph.initializer:
        if tensor.data_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16):
            raise LoweringError(
                f"cannot compile {path}: its weight {tensor.name!r} is in half precision; export the network in float32"
            )
    for node in _nodes(graph):
        where = describe_node(node)
        if node.op_type in _QUANTIZED:
            raise LoweringError(
                f"cannot compile {path}: {where}, belongs to a quantized network; export it in float32"
            )
        if node.domain not in ("", "ai.onnx") or not onnx.defs.has(node.op_type):
            raise LoweringError(
                f"cannot compile {path}: {where} of domain {node.domain or 'ai.onnx'!r}, is none of ONNX's own; export "
                f"without it, or without an optimizer that puts such operators in"
            )


def _nodes(graph: Any) -> Iterator[Any]:
    """Yield the nodes of `graph` and of the graphs within it."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _nodes(attribute.g)


def _closed(path: Path, source: Any, wanted: Shape | None) -> tuple[Shape, str | None]:
    """Return the input's shape without open axes, and what was assumed of them."""
    axes = source.type.tensor_type.shape.dim
    if len(axes) != 4:
        raise LoweringError(
            f"cannot compile {path}: its input {source.name!r} must be an image with four axes, not {len(axes)}"
        )
    sizes = [axis.dim_value if axis.dim_value > 0 else None for axis in axes]
    shown = ",".join(
        str(size or axis.dim_param or "?") for size, axis in zip(sizes, axes, strict=True)
    )
    if wanted is None:
        if None in sizes[1:]:
            example = ",".join(
                str(size or other) for size, other in zip(sizes, _EXAMPLE, strict=True)
            )
            raise ConfigError(
                f"{path}: the shape of its input {source.name!r} is open ({shown}); say which to compile for, for "
                f"example --input-shape {example}"
            )
        closed = (sizes[0] or 1, sizes[1] or 0, sizes[2] or 0, sizes[3] or 0)
        return closed, None if sizes[0] else f"batch of {source.name!r} is open: taken as 1"
    for size, other in zip(sizes, wanted, strict=True):
        if size is not None and size != other:
            raise ConfigError(
                f"{path}: --input-shape must fit the file's ({shown}), not {','.join(map(str, wanted))}"
            )
    return wanted, None


def _set_shape(model: Any, source: Any, shape: Shape) -> None:
    for axis, size in zip(source.type.tensor_type.shape.dim, shape, strict=True):
        axis.Clear()
        axis.dim_value = size
    # What the file says of other shapes may be of the open axes; they follow from the input's.
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")


def _folded(path: Path, serialized: bytes) -> Any:
    """Return the network with what does not depend on the image computed, batch norms in their convolutions."""
    import onnxruntime

    with tempfile.TemporaryDirectory(prefix="tvm-mnas-onnx-") as directory:
        folded = Path(directory) / "folded.onnx"
        options = _session_options()
        # What the level beyond this one makes are operators of ONNX Runtime's own.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(folded)
        try:
            onnxruntime.InferenceSession(serialized, options, providers=["CPUExecutionProvider"])
            model = onnx.load(str(folded))
        except Exception as error:
            raise_if_foreign(error)
            raise LoweringError(
                f"cannot compile {path}, which ONNX Runtime refuses: {first_line(error)}"
            ) from error
    for node in model.graph.node:
        if node.op_type in _CONTROL_FLOW:
            raise LoweringError(
                f"cannot compile {path}: {describe_node(node)}, decides by the image what is computed; "
                f"export without it"
            )
    return model


def _session_options() -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = _QUIET
    # One thread: the others would spin beside whatever is measured on this machine.
    options.intra_op_num_threads = 1
    return options
