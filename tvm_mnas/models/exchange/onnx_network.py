"""An ONNX file's network as a torch network, which is lowered as any other: the same kernels, however it is written."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import fx, nn

from tvm_mnas.errors import LoweringError, first_line, raise_if_foreign
from tvm_mnas.models.exchange import onnx_elementwise as elementwise
from tvm_mnas.models.exchange import onnx_layers as layers
from tvm_mnas.models.exchange import onnx_shapes as shapes
from tvm_mnas.models.exchange.building import GraphBuilder, UnsupportedError, Value
from tvm_mnas.models.exchange.onnx_call import Call
from tvm_mnas.models.exchange.onnx_file import OnnxFile, describe_node
from tvm_mnas.models.exchange.onnx_resizing import resizing

_OPERATORS: dict[str, Callable[[Call], Value | tuple[Value, ...]]] = {
    "Abs": elementwise.unary(torch.abs),
    "Add": elementwise.binary(operator.add),
    "AveragePool": layers.average_pooling,
    "BatchNormalization": layers.batch_normalization,
    "Cast": shapes.converted,
    "Ceil": elementwise.unary(torch.ceil),
    "Clip": elementwise.clip,
    "Concat": shapes.concatenate,
    "Conv": layers.convolution,
    "ConvTranspose": layers.transposed_convolution,
    "Cos": elementwise.unary(torch.cos),
    "DepthToSpace": shapes.depth_to_space,
    "Div": elementwise.binary(operator.truediv),
    "Dropout": elementwise.same,
    "Elu": elementwise.exponential,
    "Erf": elementwise.unary(torch.erf),
    "Exp": elementwise.unary(torch.exp),
    "Expand": shapes.expand,
    "Flatten": shapes.flatten,
    "Floor": elementwise.unary(torch.floor),
    "Gather": shapes.gather,
    "Gelu": elementwise.gelu,
    "Gemm": layers.dense,
    "GlobalAveragePool": layers.global_average,
    "GlobalMaxPool": layers.global_maximum,
    "HardSigmoid": elementwise.hard_sigmoid,
    "HardSwish": elementwise.hard_swish,
    "Identity": elementwise.same,
    "InstanceNormalization": layers.instance_normalization,
    "LRN": layers.local_response,
    "LayerNormalization": layers.layer_normalization,
    "LeakyRelu": elementwise.leaky,
    "Log": elementwise.unary(torch.log),
    "LogSoftmax": shapes.log_softmax,
    "MatMul": layers.product,
    "Max": elementwise.several(torch.maximum),
    "MaxPool": layers.max_pooling,
    "Mean": elementwise.average,
    "Min": elementwise.several(torch.minimum),
    "Mul": elementwise.binary(operator.mul),
    "Neg": elementwise.unary(torch.neg),
    "PRelu": elementwise.parametric,
    "Pad": layers.border,
    "Pow": elementwise.power,
    "Reciprocal": elementwise.unary(torch.reciprocal),
    "ReduceMax": shapes.largest,
    "ReduceMean": shapes.mean,
    "ReduceMin": shapes.least,
    "ReduceSum": shapes.total,
    "Relu": elementwise.layer(nn.ReLU),
    "Reshape": shapes.reshape,
    "Resize": resizing,
    "Sigmoid": elementwise.layer(nn.Sigmoid),
    "Sin": elementwise.unary(torch.sin),
    "Slice": shapes.cut,
    "Softmax": shapes.softmax,
    "Softplus": elementwise.unary(torch.nn.functional.softplus),
    "Split": shapes.split,
    "Sqrt": elementwise.unary(torch.sqrt),
    "Squeeze": shapes.squeeze,
    "Sub": elementwise.binary(operator.sub),
    "Sum": elementwise.several(operator.add),
    "Tanh": elementwise.unary(torch.tanh),
    "Tile": shapes.repeat,
    "Transpose": shapes.transpose,
    "Unsqueeze": shapes.unsqueeze,
    "Upsample": resizing,
    "Where": elementwise.chosen,
}


def to_torch(file: OnnxFile) -> fx.GraphModule:
    """Return the network of `file` in eval mode; it takes images of the file's input shape, and returns all outputs.

    Raises:
        LoweringError: if an operator, or the way it is used, is not known; the text names the node.
    """
    graph = GraphBuilder()
    rng = np.random.default_rng(0)
    example = rng.integers(0, 256, file.input_shape).astype(file.input_dtype)
    if file.input_dtype != "uint8":
        example = rng.standard_normal(file.input_shape, dtype=np.float32)
    values = {file.input_name: graph.placeholder(torch.from_numpy(example))}
    for tensor in file.model.graph.initializer:
        values[tensor.name] = Value(torch.from_numpy(numpy_helper.to_array(tensor).copy()))
    opset = next(
        entry.version for entry in file.model.opset_import if entry.domain in ("", "ai.onnx")
    )
    for node in file.model.graph.node:
        _add(file, graph, values, node, opset)
    outputs = [values[output.name] for output in file.model.graph.output]
    if all(value.constant for value in outputs):
        raise LoweringError(
            f"cannot compile {file.path}: no output depends on its input {file.input_name!r}; check the export"
        )
    return graph.finish(outputs)


def _add(
    file: OnnxFile, graph: GraphBuilder, values: dict[str, Value], node: Any, opset: int
) -> None:
    names = [name for name in node.output if name]
    where = describe_node(node)
    if node.op_type == "Constant":
        values[names[0]] = _constant(node)
        return
    convert = _OPERATORS.get(node.op_type)
    if convert is None:
        raise LoweringError(
            f"cannot compile {file.path}: {where}, is not known here; known are {', '.join(_OPERATORS)}"
        )
    call = Call(
        graph,
        node.op_type,
        opset,
        {
            attribute.name: onnx.helper.get_attribute_value(attribute)
            for attribute in node.attribute
        },
        tuple(values[name] if name else None for name in node.input),
        len(names),
    )
    try:
        made = convert(call)
    except UnsupportedError as error:
        raise LoweringError(
            f"cannot compile {file.path}: {where}, is not known as it is used here: {error}"
        ) from error
    except Exception as error:
        raise_if_foreign(error)
        # torch refuses shapes and types in its own words.
        raise LoweringError(
            f"cannot compile {file.path}: {where}, fails: {first_line(error)}"
        ) from error
    # What an operator may also return, such as a mask, is wanted by nobody here.
    for name, value in zip(names, made if isinstance(made, tuple) else (made,), strict=False):
        values[name] = value


def _constant(node: Any) -> Value:
    (attribute,) = node.attribute
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, onnx.TensorProto):
        return Value(torch.from_numpy(numpy_helper.to_array(value).copy()))
    return Value(torch.tensor(value))
