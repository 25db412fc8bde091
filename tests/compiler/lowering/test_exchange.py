"""Networks from files through the whole compiler: what they compute, and which kernels they have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import TensorProto

from tests.compiler.targets import HASWELL, runs_here
from tests.compiler.untuned import build_untuned, run_all_here
from tests.models.exchange.files import FLOAT, Net, plain
from tvm_mnas.compiler.core.kernel import LoweredNetwork
from tvm_mnas.compiler.lowering.lower import lower_network
from tvm_mnas.evaluation.agreement import check_images, compare_outputs
from tvm_mnas.models.exchange.exported import program_to_modules
from tvm_mnas.models.exchange.onnx_file import OnnxFile, read_onnx
from tvm_mnas.models.exchange.onnx_network import to_torch
from tvm_mnas.models.inference import export_onnx
from tvm_mnas.models.network import build_network
from tvm_mnas.models.zoo.registry import zoo_entry
from tvm_mnas.space.scaling import split_scaling


def _middle(kind: str) -> Callable[[Net, str], str]:
    kinds: dict[str, Callable[[Net, str], str]] = {
        "transposed convolution": lambda net, x: net.add(
            "ConvTranspose", x, net.drawn(8, 8, 4, 4), strides=[2, 2], pads=[1, 1, 1, 1]
        ),
        "split": lambda net, x: net.add(
            "Concat", *reversed(net.node("Split", x, outputs=2, axis=1)), axis=1
        ),
        "same lower": lambda net, x: net.add(
            "MaxPool", x, kernel_shape=[2, 2], strides=[2, 2], auto_pad="SAME_LOWER"
        ),
        "resize": lambda net, x: net.add(
            "Resize", x, "", net.weight([1.0, 1.0, 2.0, 2.0]), mode="linear",
            coordinate_transformation_mode="asymmetric",
        ),
        "shuffle": lambda net, x: net.add("DepthToSpace", x, blocksize=2, mode="CRD"),
        "softmax": lambda net, x: net.add("Softmax", x, axis=1),
        "border": lambda net, x: net.add("Pad", x, net.weight([0, 0, 0, 0, 0, 0, 1, 1], np.int64)),
    }  # fmt: skip
    return kinds[kind]


def _lowered(file: OnnxFile, target: str) -> LoweredNetwork:
    return lower_network(to_torch(file), file.input_shape, target, input_dtype=file.input_dtype)


def _assert_right(file: OnnxFile, directory: Path) -> None:
    images = check_images(file.input_shape, file.input_dtype, seed=1)
    path = build_untuned(_lowered(file, runs_here()), directory)
    found = run_all_here(path, images, batch_size=file.input_shape[0])
    assert compare_outputs(found, file.outputs(images), judge="ONNX Runtime").difference < 1e-5


@pytest.mark.parametrize(
    "kind",
    ["transposed convolution", "split", "same lower", "resize", "shuffle", "softmax", "border"],
)
def test_a_file_computes_compiled_what_onnx_runtime_does(kind: str, tmp_path: Path) -> None:
    net = Net(opset=17 if kind != "split" else 13)
    features = _middle(kind)(net, net.bounded(net.norm(net.conv("image", 8, 3), 8)))
    channels = 2 if kind == "shuffle" else 8
    output = net.classifier(net.conv(features, 6, channels), 6)
    _assert_right(read_onnx(net.save(tmp_path / "net.onnx", [output])), tmp_path)


@pytest.mark.parametrize("opset", [7, 9, 13, 21])
def test_a_file_of_any_version_computes_compiled_the_same(opset: int, tmp_path: Path) -> None:
    net, output = plain(opset)
    _assert_right(read_onnx(net.save(tmp_path / "net.onnx", [output])), tmp_path)


def test_all_outputs_of_a_batch_of_bytes_are_right(tmp_path: Path) -> None:
    net = Net()
    pixels = net.add("Transpose", net.add("Cast", "image", to=FLOAT), perm=[0, 3, 1, 2])
    features = net.conv(net.add("Div", pixels, net.weight(255.0)), 8, 3)
    outputs = [net.classifier(net.add("Relu", features), 8), features]
    inputs = {"image": (TensorProto.UINT8, (2, 12, 12, 3))}
    file = read_onnx(net.save(tmp_path / "net.onnx", outputs, inputs=inputs))
    assert (file.input_shape, file.input_dtype) == ((2, 12, 12, 3), "uint8")
    _assert_right(file, tmp_path)


def test_norm_hard_swish_and_gate_are_in_their_convolutions(tmp_path: Path) -> None:
    net = Net()
    features = net.norm(net.conv("image", 8, 3), 8)
    gate = net.add(
        "Clip", net.add("Add", features, net.weight(3.0)), net.weight(0.0), net.weight(6.0)
    )
    swish = net.add("Div", net.add("Mul", features, gate), net.weight(6.0))
    written = net.conv(net.add("HardSwish", net.norm(net.conv(swish, 8, 8), 8)), 8, 8)
    squeezed = net.add("Relu", net.conv(net.add("GlobalAveragePool", written), 2, 8, 1))
    excited = net.add("Mul", written, net.add("Sigmoid", net.conv(squeezed, 8, 2, 1)))
    output = net.classifier(net.conv(excited, 4, 8, 1), 4)
    file = read_onnx(net.save(tmp_path / "net.onnx", [output]))
    names = [kernel.name.split()[0] for kernel in _lowered(file, HASWELL).kernels]
    kinds = Counter("convolution" if name.startswith("conv2d") else name for name in names)
    # Six convolutions with what follows each, two poolings, the gate, the classifier and its reshaping.
    assert kinds["convolution"] == 6
    assert not [
        name for name in names if name.startswith(("add", "tir_clip", "transpose_tir", "divide"))
    ]


def test_a_file_a_program_and_the_notation_are_one_network(tmp_path: Path) -> None:
    base, scaling = split_scaling("mnasnet-b1@0.35,96")
    architecture = zoo_entry(base).architecture
    assert architecture is not None and scaling is not None
    architecture = scaling.apply(architecture, widens_head=False)
    network, shape = build_network(architecture, seed=1).eval(), architecture.image_shape
    export_onnx(network, shape, tmp_path / "net.onnx")
    program = torch.export.export(network, (torch.zeros(shape),))
    kernels = [
        {kernel.key: kernel.calls for kernel in lowered.kernels}
        for lowered in (
            lower_network(network, shape, HASWELL),
            _lowered(read_onnx(tmp_path / "net.onnx"), HASWELL),
            lower_network(program_to_modules(program, "it"), shape, HASWELL),
        )
    ]
    assert len(kernels[0]) > 25
    assert kernels[1] == kernels[0]
    assert kernels[2] == kernels[0]


def test_a_network_that_looks_at_its_shapes_is_exported(tmp_path: Path) -> None:
    class Looking(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Conv2d(3, 8, 3)
            self.norm = torch.nn.BatchNorm2d(8)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if images.shape[2] < 4:
                raise ValueError("too small")
            return torch.relu(self.norm(self.layer(images))).mean(dim=(2, 3))

    lowered = lower_network(Looking().eval(), (1, 3, 8, 8), HASWELL)
    names = sorted(kernel.name.split()[0] for kernel in lowered.kernels)
    assert "conv2d_add_relu" in names
