"""torch.export's programs, from a `.pt2` file or of a module that cannot be traced, as networks of modules.

What torch writes as functions of tensors becomes the modules again that folding, padding and lowering know.
"""

from __future__ import annotations

import contextlib
import operator
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from tvm_mnas.errors import ConfigError, LoweringError, first_line, raise_if_foreign
from tvm_mnas.models.exchange.building import GraphBuilder, UnsupportedError, Value

Shape = tuple[int, int, int, int]
_DTYPES = {torch.float32: "float32", torch.uint8: "uint8"}
_Arguments = Sequence[Any]


def read_program(path: Path) -> ExportedProgram:
    """Return the program in the `.pt2` file `path`, which torch.export.save has written.

    Raises:
        ConfigError: if it cannot be read.
    """
    try:
        with _quiet():
            return torch.export.load(str(path))
    except Exception as error:
        raise_if_foreign(error)
        raise ConfigError(
            f"cannot read {path} as a program of torch.export: {first_line(error)}; write it by "
            f"torch.export.save, with torch {torch.__version__}"
        ) from error


def image_input(program: ExportedProgram, name: str) -> tuple[Shape, str]:
    """Return shape and type of the one input of `program`; `name` is what the error calls it.

    Raises:
        LoweringError: if it has not one input of four axes, float32 or uint8, all of fixed sizes.
    """
    inputs = [
        node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs
    ]
    if len(inputs) != 1:
        raise LoweringError(
            f"cannot compile {name}: a network must have one input, an image, and this one has {len(inputs)} "
            f"({', '.join(node.name for node in inputs)}); export it with the others fixed"
        )
    example = inputs[0].meta["val"]
    sizes = list(example.shape)
    if (
        len(sizes) != 4
        or example.dtype not in _DTYPES
        or not all(type(size) is int for size in sizes)
    ):
        raise LoweringError(
            f"cannot compile {name}: its input {inputs[0].name!r} must be an image with four fixed sizes, float32 or "
            f"uint8, not {example.dtype} of {[str(size) for size in sizes]}; export it so"
        )
    return (sizes[0], sizes[1], sizes[2], sizes[3]), _DTYPES[example.dtype]


def program_to_modules(program: ExportedProgram, name: str) -> fx.GraphModule:
    """Return the network of `program` in eval mode; `name` is what errors call it.

    Raises:
        LoweringError: if it has not one image as its input, or outputs that do not depend on that.
    """
    shape, dtype = image_input(program, name)
    # Without changes in place, which a graph of values cannot have.
    with _quiet():
        program = program.run_decompositions({})
    signature = program.graph_signature
    constants = {
        **program.state_dict,
        **program.constants,
    }
    named = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    graph = GraphBuilder()
    torch_dtype = getattr(torch, dtype)
    example = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    if dtype == "uint8":
        example = (128 + 48 * example).clamp(0, 255)
    values: dict[fx.Node, Any] = {}
    for node in program.graph.nodes:
        if node.op == "placeholder":
            if node.name in named:
                values[node] = Value(constants[named[node.name]].detach())
            else:
                values[node] = graph.placeholder(example.to(torch_dtype))
        elif node.op == "call_function" and not node.users:
            # An assertion about a type or a size: nobody reads it.
            continue
        elif node.op == "call_function":
            values[node] = _call(graph, node, values, name)
        elif node.op == "output":
            wanted = [values[output] for output in node.args[0] if isinstance(output, fx.Node)]
            if all(value.constant for value in wanted):
                raise LoweringError(f"cannot compile {name}: no output depends on its input")
            return graph.finish(wanted)
        else:
            raise LoweringError(
                f"cannot compile {name}: node {node.name!r} is a {node.op}; export it without control flow"
            )
    raise LoweringError(f"cannot compile {name}: it has no output")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what torch says of its own future to itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def _call(graph: GraphBuilder, node: fx.Node, values: dict[fx.Node, Any], name: str) -> Any:
    arguments: Any = fx.map_arg(node.args, lambda source: values[source])
    if node.target is operator.getitem:
        several, index = arguments
        return several[index]
    target = str(node.target).removeprefix("aten.")
    convert = _MODULES.get(target)
    try:
        if convert is not None:
            made = convert(graph, arguments)
            if made is not None:
                return made
        assert callable(node.target)
        results = graph.results(node.target, *arguments, keywords=node.kwargs)
        return results if len(results) > 1 else results[0]
    except UnsupportedError as error:
        raise LoweringError(
            f"cannot compile {name}: node {node.name!r}, operator {target}, is not known as it is used here: {error}"
        ) from error
    except Exception as error:
        raise_if_foreign(error)
        raise LoweringError(
            f"cannot compile {name}: node {node.name!r}, operator {target}, fails: {first_line(error)}"
        ) from error


def _weights(layer: nn.Module, weight: Value, bias: Value | None) -> bool:
    """Give `layer` its weights, if they are constant."""
    if not weight.constant or not (bias is None or bias.constant):
        return False
    layer.weight = nn.Parameter(weight.example.clone(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.example.clone(), requires_grad=False)
    return True


def _at(arguments: _Arguments, index: int, default: Any) -> Any:
    return arguments[index] if index < len(arguments) else default


def _pair(numbers: Any) -> tuple[int, int]:
    first, *rest = [int(number) for number in numbers]
    return first, (rest or [first])[0]


def _convolution(graph: GraphBuilder, arguments: _Arguments) -> Value | None:
    source, weight, bias = arguments[0], arguments[1], _at(arguments, 2, None)
    padding = _at(arguments, 4, (0,))
    if source.example.dim() != 4 or isinstance(padding, str):
        return None
    groups = int(_at(arguments, 6, 1))
    shape = weight.example.shape
    layer = nn.Conv2d(
        int(shape[1]) * groups,
        int(shape[0]),
        (int(shape[2]), int(shape[3])),
        _pair(_at(arguments, 3, (1,))),
        _pair(padding),
        _pair(_at(arguments, 5, (1,))),
        groups,
        bias is not None,
    )
    return graph.module(layer, source) if _weights(layer, weight, bias) else None


def _transposed(graph: GraphBuilder, arguments: _Arguments) -> Value | None:
    source, weight, bias = arguments[0], arguments[1], _at(arguments, 2, None)
    groups = int(_at(arguments, 6, 1))
    shape = weight.example.shape
    layer = nn.ConvTranspose2d(
        int(shape[0]),
        int(shape[1]) * groups,
        (int(shape[2]), int(shape[3])),
        _pair(_at(arguments, 3, (1,))),
        _pair(_at(arguments, 4, (0,))),
        _pair(_at(arguments, 5, (0,))),
        groups,
        bias is not None,
        _pair(_at(arguments, 7, (1,))),
    )
    return graph.module(layer, source) if _weights(layer, weight, bias) else None


def _batch_norm(graph: GraphBuilder, arguments: _Arguments) -> tuple[Value, ...] | None:
    source, weight, bias, mean, variance, _, epsilon = arguments
    if source.example.dim() != 4 or not mean.constant or not variance.constant:
        return None
    layer = nn.BatchNorm2d(len(mean.example), eps=float(epsilon), affine=weight is not None)
    if weight is not None and not _weights(layer, weight, bias):
        return None
    layer.running_mean, layer.running_var = mean.example.clone(), variance.example.clone()
    return (graph.module(layer, source),)


def _dense(graph: GraphBuilder, arguments: _Arguments) -> Value | None:
    source, weight, bias = arguments[0], arguments[1], _at(arguments, 2, None)
    layer = nn.Linear(
        int(weight.example.shape[1]), int(weight.example.shape[0]), bias=bias is not None
    )
    return graph.module(layer, source) if _weights(layer, weight, bias) else None


def _max_pooling(graph: GraphBuilder, arguments: _Arguments) -> Value | None:
    kernel = _pair(arguments[1])
    strides = _at(arguments, 2, ()) or kernel
    layer = nn.MaxPool2d(
        kernel,
        _pair(strides),
        _pair(_at(arguments, 3, (0,))),
        _pair(_at(arguments, 4, (1,))),
        ceil_mode=bool(_at(arguments, 5, False)),
    )
    return graph.module(layer, arguments[0])


def _pooled(graph: GraphBuilder, arguments: _Arguments) -> Value | None:
    if list(arguments[1]) != [1, 1]:
        return None
    return graph.module(nn.AdaptiveAvgPool2d(1), arguments[0])


def _mean(graph: GraphBuilder, arguments: _Arguments) -> Value | None:
    source, axes = arguments[0], _at(arguments, 1, None)
    if source.example.dim() != 4 or axes is None or sorted(axis % 4 for axis in axes) != [2, 3]:
        return None
    pooled = graph.module(nn.AdaptiveAvgPool2d(1), source)
    return pooled if _at(arguments, 2, False) else graph.module(nn.Flatten(1), pooled)


def _reshaped(graph: GraphBuilder, arguments: _Arguments) -> Value | None:
    source = arguments[0]
    if (
        source.example.dim() <= 2
        or source.example.reshape(arguments[1]).shape != source.example.flatten(1).shape
    ):
        return None
    return graph.module(nn.Flatten(1), source)


def _bounded(graph: GraphBuilder, arguments: _Arguments) -> Value | None:
    if (float(_at(arguments, 1, -1.0)), float(_at(arguments, 2, 1.0))) != (0.0, 6.0):
        return None
    return graph.module(nn.ReLU6(), arguments[0])


def _layer(make: Callable[[], nn.Module]) -> Callable[[GraphBuilder, _Arguments], Value | None]:
    return lambda graph, arguments: graph.module(make(), arguments[0])


def _paired(
    function: Callable[[Tensor, Tensor], Tensor],
) -> Callable[[GraphBuilder, _Arguments], Value | None]:
    def apply(graph: GraphBuilder, arguments: _Arguments) -> Value | None:
        if len(arguments) != 2 or not all(isinstance(value, Value) for value in arguments):
            return None
        return graph.function(function, *arguments)

    return apply


_MODULES: dict[str, Callable[[GraphBuilder, _Arguments], Any]] = {
    "_native_batch_norm_legit_no_training.default": _batch_norm,
    "adaptive_avg_pool2d.default": _pooled,
    "add.Tensor": _paired(operator.add),
    "clone.default": lambda graph, arguments: arguments[0],
    "conv2d.default": _convolution,
    "conv_transpose2d.input": _transposed,
    "hardsigmoid.default": _layer(nn.Hardsigmoid),
    "hardswish.default": _layer(nn.Hardswish),
    "hardtanh.default": _bounded,
    "linear.default": _dense,
    "max_pool2d.default": _max_pooling,
    "mean.dim": _mean,
    "mul.Tensor": _paired(operator.mul),
    "pixel_shuffle.default": lambda graph, arguments: graph.module(
        nn.PixelShuffle(arguments[1]), arguments[0]
    ),
    "relu.default": _layer(nn.ReLU),
    "reshape.default": _reshaped,
    "sigmoid.default": _layer(nn.Sigmoid),
    "silu.default": _layer(nn.SiLU),
    "tanh.default": _layer(nn.Tanh),
    "view.default": _reshaped,
}
"""How an operator becomes a module; None from it leaves the function as it is."""
