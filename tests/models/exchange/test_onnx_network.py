"""Every operator, in the versions and ways in which exporters write it, against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto
from torch import nn

from tests.models.exchange.files import FLOAT, Net, plain
from tvm_mnas.errors import LoweringError
from tvm_mnas.evaluation.agreement import Agreement, check_images, compare_outputs
from tvm_mnas.models.exchange.onnx_file import read_onnx
from tvm_mnas.models.exchange.onnx_network import to_torch
from tvm_mnas.models.inference import all_outputs

Middle = Callable[[Net, str], str]


def agreement(path: Path) -> Agreement:
    """Return how far the torch network of a file is from ONNX Runtime."""
    file = read_onnx(path)
    images = check_images(file.input_shape, file.input_dtype, seed=3)
    found = all_outputs(to_torch(file), images, batch_size=file.input_shape[0])
    return compare_outputs(found, file.outputs(images), judge="ONNX Runtime")


def between(
    tmp_path: Path, middle: Middle, *, opset: int = 17, shape: tuple[int, ...] = (1, 4, 9, 7)
) -> Agreement:
    """Return the agreement of a network with `middle` after a convolution of 4 channels."""
    net = Net(opset=opset)
    output = middle(net, net.conv("image", 4, shape[1], 1))
    return agreement(net.save(tmp_path / "net.onnx", [output], inputs={"image": (FLOAT, shape)}))


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 17, 21])
def test_a_plain_network_of_any_version(opset: int, tmp_path: Path) -> None:
    net, output = plain(opset)
    assert agreement(net.save(tmp_path / "net.onnx", [output])).difference < 1e-5


def test_batch_norms_are_in_their_convolutions_and_bounds_are_modules(tmp_path: Path) -> None:
    net, output = plain()
    network = to_torch(read_onnx(net.save(tmp_path / "net.onnx", [output])))
    kinds = [type(module) for module in network.children()]
    expected = [
        nn.Conv2d,
        nn.ReLU6,
        nn.Conv2d,
        nn.ReLU6,
        nn.Conv2d,
        nn.AdaptiveAvgPool2d,
        nn.Flatten,
        nn.Linear,
    ]
    assert kinds == expected
    assert all(node.op != "call_function" for node in network.graph.nodes)


_CONVOLUTIONS: dict[str, dict[str, Any]] = {
    "padded": {"pads": [1, 1, 1, 1]},
    "one-sided": {"pads": [0, 0, 1, 1], "strides": [2, 2]},
    "uneven": {"pads": [2, 0, 1, 1], "strides": [1, 2]},
    "same upper": {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
    "same lower": {"auto_pad": "SAME_LOWER", "strides": [2, 2]},
    "valid": {"auto_pad": "VALID"},
    "dilated": {"pads": [2, 2, 2, 2], "dilations": [2, 2]},
    "grouped": {"pads": [1, 1, 1, 1], "group": 2},
}


@pytest.mark.parametrize("name", _CONVOLUTIONS)
def test_convolutions(name: str, tmp_path: Path) -> None:
    settings = _CONVOLUTIONS[name]
    inner = 4 // settings.get("group", 1)
    assert between(tmp_path, lambda net, x: net.conv(x, 6, inner, 3, **settings)).difference < 1e-5


_TRANSPOSED: dict[str, dict[str, Any]] = {
    "doubling": {"strides": [2, 2]},
    "padded": {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]},
    "cut less behind": {"strides": [2, 2], "pads": [1, 1, 0, 0]},
    "grouped": {"strides": [2, 2], "group": 2},
}


@pytest.mark.parametrize("name", _TRANSPOSED)
def test_transposed_convolutions(name: str, tmp_path: Path) -> None:
    settings = _TRANSPOSED[name]

    def middle(net: Net, x: str) -> str:
        outs = 6 // settings.get("group", 1)
        return net.add(
            "ConvTranspose", x, net.drawn(4, outs, 3, 3), kernel_shape=[3, 3], **settings
        )

    assert between(tmp_path, middle).difference < 1e-5


@pytest.mark.parametrize("kind", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize(
    "settings",
    [
        {"strides": [2, 2]},
        {"strides": [2, 2], "pads": [1, 1, 1, 1]},
        {"strides": [2, 2], "pads": [0, 0, 1, 1]},
        {"strides": [2, 2], "ceil_mode": 1},
        {"strides": [2, 2], "pads": [1, 1, 1, 1], "ceil_mode": 1},
        {"strides": [2, 2], "auto_pad": "SAME_UPPER"},
        {"strides": [2, 2], "auto_pad": "SAME_LOWER"},
        {"strides": [3, 3], "auto_pad": "VALID"},
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [2, 3])
def test_poolings(kind: str, settings: dict[str, Any], size: int, tmp_path: Path) -> None:
    def middle(net: Net, x: str) -> str:
        return net.add(kind, x, kernel_shape=[size, size], **settings)

    assert between(tmp_path, middle).difference < 1e-5


def test_padding_counts_in_averages_where_it_is_to(tmp_path: Path) -> None:
    settings = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}
    assert between(tmp_path, lambda net, x: net.add("AveragePool", x, **settings)).difference < 1e-5


_RESIZED: list[tuple[str, str, str]] = [
    *(
        ("nearest", way, rounding)
        for way in ("half_pixel", "asymmetric", "align_corners")
        for rounding in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
    ),
    *(
        ("linear", way, "floor")
        for way in ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")
    ),
    ("cubic", "half_pixel", "floor"),
    ("cubic", "align_corners", "floor"),
]


@pytest.mark.parametrize(("mode", "coordinates", "rounding"), _RESIZED)
@pytest.mark.parametrize("sizes", [(18, 14), (5, 4), (13, 20)])
def test_resizing(
    mode: str, coordinates: str, rounding: str, sizes: tuple[int, int], tmp_path: Path
) -> None:
    def middle(net: Net, x: str) -> str:
        target = net.weight([1, 4, *sizes], np.int64)
        return net.add(
            "Resize",
            x,
            "",
            "",
            target,
            mode=mode,
            coordinate_transformation_mode=coordinates,
            nearest_mode=rounding,
        )

    assert between(tmp_path, middle).difference < 1e-4


@pytest.mark.parametrize("opset", [7, 9, 10, 11])
def test_older_resizing(opset: int, tmp_path: Path) -> None:
    def middle(net: Net, x: str) -> str:
        scales = [1.0, 1.0, 2.0, 2.0]
        if opset == 7:
            return net.add("Upsample", x, mode="nearest", scales=scales)
        if opset == 9:
            return net.add("Upsample", x, net.weight(scales), mode="linear")
        if opset == 10:
            return net.add("Resize", x, net.weight(scales), mode="nearest")
        return net.add("Resize", x, net.weight([], np.float32), net.weight(scales), mode="nearest")

    assert between(tmp_path, middle, opset=opset).difference < 1e-5


def _constant(net: Net, values: Any) -> str:
    return net.weight(values, np.int64)


_SHAPES: dict[str, tuple[int, Middle]] = {
    "reshape": (17, lambda net, x: net.add("Reshape", x, _constant(net, [0, 2, -1, 7]))),
    "flatten 2": (17, lambda net, x: net.add("Flatten", x, axis=2)),
    "transpose": (17, lambda net, x: net.add("Transpose", x, perm=[0, 2, 3, 1])),
    "squeeze": (
        17,
        lambda net, x: net.add("Squeeze", net.add("GlobalMaxPool", x), _constant(net, [2, 3])),
    ),
    "squeeze 11": (11, lambda net, x: net.add("Squeeze", net.add("GlobalMaxPool", x), axes=[3])),
    "unsqueeze": (17, lambda net, x: net.add("Unsqueeze", x, _constant(net, [1, -1]))),
    "unsqueeze 11": (11, lambda net, x: net.add("Unsqueeze", x, axes=[2])),
    "slice": (
        17,
        lambda net, x: net.add(
            "Slice",
            x,
            _constant(net, [-7, 1]),
            _constant(net, [2**62, -1]),
            _constant(net, [2, 3]),
            _constant(net, [2, 1]),
        ),
    ),
    "slice 9": (9, lambda net, x: net.add("Slice", x, starts=[1], ends=[2**31], axes=[1])),
    "concat": (17, lambda net, x: net.add("Concat", x, x, net.add("Relu", x), axis=1)),
    "split": (
        17,
        lambda net, x: net.add(
            "Concat",
            *reversed(net.node("Split", x, _constant(net, [1, 3]), outputs=2, axis=1)),
            axis=1,
        ),
    ),
    "split 9": (
        9,
        lambda net, x: net.add(
            "Concat", *reversed(net.node("Split", x, outputs=2, axis=1)), axis=1
        ),
    ),
    "split 18": (18, lambda net, x: net.node("Split", x, outputs=2, axis=2, num_outputs=2)[1]),
    "gather": (17, lambda net, x: net.add("Gather", x, _constant(net, [3, -4, 1]), axis=1)),
    "gather one": (17, lambda net, x: net.add("Gather", x, _constant(net, -1), axis=2)),
    "expand": (
        17,
        lambda net, x: net.add("Expand", net.add("GlobalMaxPool", x), _constant(net, [1, 4, 3, 2])),
    ),
    "tile": (17, lambda net, x: net.add("Tile", x, _constant(net, [1, 2, 1, 1]))),
    "depth to space": (17, lambda net, x: net.add("DepthToSpace", x, blocksize=2)),
    "depth to space CRD": (17, lambda net, x: net.add("DepthToSpace", x, blocksize=2, mode="CRD")),
    "pad": (
        17,
        lambda net, x: net.add("Pad", x, _constant(net, [0, 1, 0, 2, 0, 0, 1, 0]), net.weight(2.0)),
    ),
    "pad 9": (9, lambda net, x: net.add("Pad", x, pads=[0, 0, 1, 2, 0, 0, 0, 1], value=-1.0)),
    "pad reflect": (
        17,
        lambda net, x: net.add("Pad", x, _constant(net, [0, 0, 1, 2, 0, 0, 2, 1]), mode="reflect"),
    ),
    "pad edge": (
        17,
        lambda net, x: net.add("Pad", x, _constant(net, [0, 0, 1, 0, 0, 0, 0, 3]), mode="edge"),
    ),
    "mean": (17, lambda net, x: net.add("ReduceMean", x, axes=[2, 3])),
    "mean without axes": (17, lambda net, x: net.add("ReduceMean", x, axes=[-1, -2], keepdims=0)),
    "mean 18": (18, lambda net, x: net.add("ReduceMean", x, _constant(net, [1]), keepdims=1)),
    "sum": (17, lambda net, x: net.add("ReduceSum", x, _constant(net, [1, 3]), keepdims=0)),
    "max": (17, lambda net, x: net.add("ReduceMax", x, axes=[1])),
    "min": (17, lambda net, x: net.add("ReduceMin", x, axes=[1], keepdims=0)),
    "softmax": (17, lambda net, x: net.add("Softmax", x, axis=1)),
    "softmax 11": (11, lambda net, x: net.add("Softmax", x, axis=1)),
    "log softmax 9": (9, lambda net, x: net.add("LogSoftmax", x, axis=2)),
    "computed": (
        17,
        lambda net, x: net.add(
            "Reshape", net.add("Reshape", x, _constant(net, [1, -1])), net.add("Shape", x)
        ),
    ),
}


@pytest.mark.parametrize("name", _SHAPES)
def test_moving_values_about(name: str, tmp_path: Path) -> None:
    opset, middle = _SHAPES[name]
    assert between(tmp_path, middle, opset=opset).difference < 1e-5


_ELEMENTWISE: dict[str, tuple[int, Middle]] = {
    **{
        kind: (20, lambda net, x, kind=kind: net.add(kind, x))  # type: ignore[misc]
        for kind in (
            "Abs",
            "Elu",
            "Erf",
            "Exp",
            "Gelu",
            "HardSigmoid",
            "HardSwish",
            "Identity",
            "LeakyRelu",
            "Neg",
            "Relu",
            "Sigmoid",
            "Sin",
            "Cos",
            "Softplus",
            "Tanh",
            "Floor",
            "Ceil",
        )
    },
    **{
        kind: (
            17,
            lambda net, x, kind=kind: net.add(
                kind, net.add("Add", net.add("Abs", x), net.weight(1.0))
            ),
        )  # type: ignore[misc]
        for kind in ("Log", "Sqrt", "Reciprocal")
    },
    **{
        kind: (
            17,
            lambda net, x, kind=kind: net.add(
                kind, x, net.weight(np.arange(1, 5).reshape(4, 1, 1))
            ),
        )  # type: ignore[misc]
        for kind in ("Add", "Sub", "Mul", "Div", "Max", "Min")
    },
    "Sum": (17, lambda net, x: net.add("Sum", x, net.add("Tanh", x), x)),
    "Mean": (17, lambda net, x: net.add("Mean", x, net.add("Tanh", x))),
    "Pow": (17, lambda net, x: net.add("Pow", x, net.weight(2.0))),
    "Pow 3": (17, lambda net, x: net.add("Pow", net.add("Abs", x), net.weight(1.5))),
    "PRelu": (
        17,
        lambda net, x: net.add("PRelu", x, net.weight(np.linspace(0.1, 0.9, 4).reshape(4, 1, 1))),
    ),
    "Clip": (17, lambda net, x: net.add("Clip", x, net.weight(-0.5), net.weight(1.0))),
    "Clip below": (17, lambda net, x: net.add("Clip", x, net.weight(-0.5))),
    "Clip 9": (9, lambda net, x: net.add("Clip", x, min=-0.25, max=0.75)),
    "hard sigmoid": (17, lambda net, x: net.add("HardSigmoid", x, alpha=1 / 6, beta=0.5)),
    "Dropout": (17, lambda net, x: net.node("Dropout", net.add("Tanh", x), outputs=2)[0]),
    "Where": (
        17,
        lambda net, x: net.add(
            "Where",
            net.weight(np.tile([True, False, False], 21).reshape(9, 7), np.bool_),
            x,
            net.add("Neg", x),
        ),
    ),
    "Cast": (
        17,
        lambda net, x: net.add("Cast", net.add("Cast", x, to=TensorProto.INT32), to=FLOAT),
    ),
    "LRN": (17, lambda net, x: net.add("LRN", x, size=3, alpha=0.5)),
    "InstanceNormalization": (
        17,
        lambda net, x: net.add("InstanceNormalization", x, net.drawn(4), net.drawn(4)),
    ),
    "LayerNormalization": (
        17,
        lambda net, x: net.add("LayerNormalization", x, net.drawn(7), net.drawn(7)),
    ),
    "norm alone": (17, lambda net, x: net.norm(net.add("Tanh", x), 4)),
    "gate": (
        17,
        lambda net, x: net.add(
            "Mul", x, net.add("Sigmoid", net.conv(net.add("GlobalAveragePool", x), 4, 4, 1))
        ),
    ),
    "MatMul": (17, lambda net, x: net.add("MatMul", x, net.drawn(7, 3))),
    "MatMul of two": (
        17,
        lambda net, x: net.add("MatMul", x, net.add("Transpose", x, perm=[0, 1, 3, 2])),
    ),
    "Gemm": (
        17,
        lambda net, x: net.add(
            "Gemm", net.add("Flatten", x), net.drawn(252, 6), net.drawn(6), alpha=0.5, beta=2.0
        ),
    ),
}


@pytest.mark.parametrize("name", _ELEMENTWISE)
def test_elementwise_and_dense(name: str, tmp_path: Path) -> None:
    opset, middle = _ELEMENTWISE[name]
    assert between(tmp_path, middle, opset=opset).difference < 1e-4


def test_bytes_and_channels_last(tmp_path: Path) -> None:
    for kind, shape in (
        (TensorProto.UINT8, (1, 16, 16, 3)),
        (FLOAT, (1, 16, 16, 3)),
        (TensorProto.UINT8, (1, 3, 16, 16)),
    ):
        net = Net()
        source = net.add("Cast", "image", to=FLOAT)
        if shape[3] == 3:
            source = net.add("Transpose", source, perm=[0, 3, 1, 2])
        source = net.add("Div", source, net.weight(255.0))
        output = net.classifier(net.conv(source, 8, 3), 8)
        path = net.save(tmp_path / "net.onnx", [output], inputs={"image": (kind, shape)})
        assert read_onnx(path).input_dtype == ("uint8" if kind == TensorProto.UINT8 else "float32")
        assert agreement(path).difference < 1e-5


def test_all_outputs_are_there_and_compared(tmp_path: Path) -> None:
    net, output = plain()
    features = net.nodes[5].output[0]
    path = net.save(tmp_path / "net.onnx", [output, features, net.add("Softmax", output)])
    network = to_torch(read_onnx(path))
    outputs = network(torch.zeros(1, 3, 16, 16))
    assert [tuple(each.shape) for each in outputs] == [(1, 5), (1, 12, 8, 8), (1, 5)]
    assert agreement(path).difference < 1e-5


def test_outputs_that_are_the_same_for_all_images_are_refused(tmp_path: Path) -> None:
    net, _ = plain()
    path = net.save(tmp_path / "net.onnx", [net.weight(np.ones(3))])
    with pytest.raises(LoweringError, match="no output depends on its input 'image'"):
        to_torch(read_onnx(path))


_UNKNOWN: dict[str, tuple[int, Middle]] = {
    "GridSample": (17, lambda net, x: net.add("GridSample", x, net.weight(np.zeros((1, 3, 3, 2))))),
    "TopK": (17, lambda net, x: net.node("TopK", x, _constant(net, [2]), outputs=2)[0]),
}


@pytest.mark.parametrize("name", _UNKNOWN)
def test_an_operator_that_is_not_known_is_named_with_its_node(name: str, tmp_path: Path) -> None:
    opset, middle = _UNKNOWN[name]
    with pytest.raises(LoweringError, match=rf"the_{name}_\d+', operator {name}, is not known"):
        between(tmp_path, middle, opset=opset)


_UNKNOWN_USES: dict[str, tuple[int, Middle]] = {
    "Slice": (
        17,
        lambda net, x: net.add(
            "Slice",
            x,
            _constant(net, [-1]),
            _constant(net, [-9]),
            _constant(net, [3]),
            _constant(net, [-1]),
        ),
    ),
    "Gather": (17, lambda net, x: net.add("Gather", x, _constant(net, [[0, 1], [2, 3]]), axis=1)),
    "Resize": (17, lambda net, x: net.add("Resize", x, "", net.weight([1.0, 2.0, 1.0, 1.0]))),
    "ConvTranspose": (
        17,
        lambda net, x: net.add(
            "ConvTranspose", x, net.drawn(4, 4, 2, 2), strides=[2, 2], auto_pad="SAME_UPPER"
        ),
    ),
}


@pytest.mark.parametrize("name", _UNKNOWN_USES)
def test_a_use_that_is_not_known_is_named_with_its_node(name: str, tmp_path: Path) -> None:
    opset, middle = _UNKNOWN_USES[name]
    with pytest.raises(
        LoweringError, match=rf"the_{name}_\d+', operator {name}, is not known as it is used"
    ):
        between(tmp_path, middle, opset=opset)
