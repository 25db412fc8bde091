"""What an ONNX file must be, and what is said of one that is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.models.exchange.files import FLOAT, Net, plain
from tvm_mnas.errors import ConfigError, LoweringError, TvmMnasError
from tvm_mnas.models.exchange.onnx_file import read_onnx


@pytest.mark.parametrize("batch", ["N", -1, 0, None])
def test_an_open_batch_is_one_and_that_is_said(batch: Any, tmp_path: Path) -> None:
    net, output = plain()
    path = net.save(tmp_path / "net.onnx", [output], inputs={"image": (FLOAT, (batch, 3, 16, 16))})
    file = read_onnx(path)
    assert file.input_shape == (1, 3, 16, 16)
    assert file.assumed == "batch of 'image' is open: taken as 1"


@pytest.mark.parametrize("batch", [2, 4])
def test_a_fixed_batch_stays(batch: int, tmp_path: Path) -> None:
    net, output = plain()
    path = net.save(tmp_path / "net.onnx", [output], inputs={"image": (FLOAT, (batch, 3, 16, 16))})
    file = read_onnx(path)
    assert (file.input_shape, file.assumed) == ((batch, 3, 16, 16), None)
    images = np.zeros((2 * batch, 3, 16, 16), np.float32)
    assert file.outputs(images)[0].shape == (2 * batch, 5)


@pytest.mark.parametrize(
    "shape", [("N", 3, "H", "W"), (1, 3, -1, -1), (1, 3, 16, "W"), ("N", "C", "H", "W")]
)
def test_open_pixels_are_closed_by_the_flag_that_the_error_names(
    shape: tuple[Any, ...], tmp_path: Path
) -> None:
    net, output = plain()
    path = net.save(tmp_path / "net.onnx", [output], inputs={"image": (FLOAT, shape)})
    with pytest.raises(ConfigError, match=r"'image' is open .* --input-shape \d+,3,\d+,224"):
        read_onnx(path)
    file = read_onnx(path, input_shape=(1, 3, 16, 16))
    assert file.input_shape == (1, 3, 16, 16)
    assert file.outputs(np.zeros((1, 3, 16, 16), np.float32))[0].shape == (1, 5)


def test_a_shape_that_is_not_the_file_s_is_refused(tmp_path: Path) -> None:
    net, output = plain()
    path = net.save(tmp_path / "net.onnx", [output], inputs={"image": (FLOAT, ("N", 3, 16, 16))})
    with pytest.raises(ConfigError, match=r"must fit the file's \(N,3,16,16\), not 1,3,32,32"):
        read_onnx(path, input_shape=(1, 3, 32, 32))
    assert read_onnx(path, input_shape=(7, 3, 16, 16)).input_shape == (7, 3, 16, 16)


@pytest.mark.parametrize("opset", [7, 9, 13])
def test_constants_among_the_inputs_are_no_inputs(opset: int, tmp_path: Path) -> None:
    net, output = plain(opset)
    path = net.save(tmp_path / "net.onnx", [output], also_inputs=True)
    assert read_onnx(path).input_name == "image"


@pytest.mark.parametrize("names", [("image", "extra"), ("image", "mask", "scale"), ()])
def test_a_network_of_more_inputs_or_none_is_refused_by_their_names(
    names: tuple[str, ...], tmp_path: Path
) -> None:
    net, output = plain()
    if not names:
        net.nodes[0].input[0] = net.drawn(1, 3, 16, 16)
    for name in names[1:]:
        output = net.add("Add", output, name)
    inputs: dict[str, tuple[int, tuple[int, ...]]] = {
        name: (FLOAT, (1, 3, 16, 16) if name == "image" else (1, 5)) for name in names
    }
    path = tmp_path / "net.onnx"
    model = net.model([output], inputs=inputs)
    if not names:
        del model.graph.input[:]
    onnx.save(model, str(path))
    with pytest.raises(LoweringError) as raised:
        read_onnx(path)
    assert all(name in str(raised.value) for name in names)
    assert f"this one has {len(names)}" in str(raised.value)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT8])
def test_an_image_of_another_type_is_refused(kind: int, tmp_path: Path) -> None:
    net = Net()
    output = net.add("Cast", "image", to=FLOAT)
    path = net.save(tmp_path / "net.onnx", [output], inputs={"image": (kind, (1, 3, 4, 4))})
    with pytest.raises(LoweringError, match="'image' must be float32 or uint8, not"):
        read_onnx(path)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_half_precision_inside_is_refused_by_the_weight(kind: int, tmp_path: Path) -> None:
    net, output = plain()
    tensor = helper.make_tensor("halved", kind, [5], [0.0] * 5)
    net.weights.append(tensor)
    path = net.save(
        tmp_path / "net.onnx", [net.add("Add", output, net.add("Cast", "halved", to=FLOAT))]
    )
    with pytest.raises(LoweringError, match="'halved' is in half precision"):
        read_onnx(path)


def _quantize(net: Net, output: str) -> str:
    step, zero = net.weight(0.05), net.weight(0, np.int8)
    return net.add("DequantizeLinear", net.add("QuantizeLinear", output, step, zero), step, zero)


def _dynamic(net: Net, output: str) -> str:
    values, step, zero = net.node("DynamicQuantizeLinear", output, outputs=3)
    return net.add("DequantizeLinear", values, step, zero)


@pytest.mark.parametrize("quantize", [_quantize, _dynamic])
def test_a_quantized_network_is_refused_by_the_node(
    quantize: Callable[[Net, str], str], tmp_path: Path
) -> None:
    net, output = plain()
    path = net.save(tmp_path / "net.onnx", [quantize(net, output)])
    with pytest.raises(
        LoweringError, match=r"the_\w*QuantizeLinear_\d+.*quantized network; export it in float32"
    ):
        read_onnx(path)


@pytest.mark.parametrize(
    ("domain", "kind"),
    [("com.example", "Cumulate"), ("com.microsoft", "FusedConv"), ("", "Nonsense")],
)
def test_an_operator_that_is_none_of_onnx_s_is_named(
    domain: str, kind: str, tmp_path: Path
) -> None:
    net, output = plain()
    output = net.add(kind, output, domain=domain)
    path = net.save(tmp_path / "net.onnx", [output], domains=[domain] if domain else [])
    with pytest.raises(LoweringError) as raised:
        read_onnx(path)
    assert f"the_{kind}" in str(raised.value)
    assert (domain or "ai.onnx") in str(raised.value)


def test_what_depends_on_the_image_s_values_is_refused(tmp_path: Path) -> None:
    net, output = plain()
    branch = helper.make_graph(
        [helper.make_node("Identity", [output], ["branch"])],
        "branch",
        [],
        [helper.make_tensor_value_info("branch", FLOAT, None)],
    )
    sign = net.add("Greater", net.add("ReduceMax", output, keepdims=0), net.weight(0.0))
    chosen = net.add("If", sign, then_branch=branch, else_branch=branch)
    path = net.save(tmp_path / "net.onnx", [chosen])
    with pytest.raises(LoweringError, match="operator If, decides by the image"):
        read_onnx(path)


def test_weights_beside_the_file_are_read_and_missed(tmp_path: Path) -> None:
    net, output = plain()
    path = tmp_path / "net.onnx"
    model = net.model([output])
    onnx.save(
        model, str(path), save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    images = np.random.default_rng(0).standard_normal((1, 3, 16, 16), dtype=np.float32)
    (outputs,) = read_onnx(path).outputs(images)
    assert outputs.std() > 0
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ConfigError, match=r"weights\.bin"):
        read_onnx(path)


@pytest.mark.parametrize("kind", ["truncated", "empty", "text", "folder"])
def test_a_file_that_cannot_be_read_is_one_line_with_its_name(kind: str, tmp_path: Path) -> None:
    net, output = plain()
    path = net.save(tmp_path / "net.onnx", [output])
    whole = path.read_bytes()
    if kind == "folder":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(
            {"truncated": whole[: len(whole) // 2], "empty": b"", "text": b"no net\n"}[kind]
        )
    with pytest.raises(ConfigError, match=r"net\.onnx") as raised:
        read_onnx(path)
    assert "\n" not in str(raised.value)


def test_every_byte_that_is_cut_off_is_noticed_or_harmless(tmp_path: Path) -> None:
    net, output = plain()
    path = net.save(tmp_path / "net.onnx", [output])
    whole = path.read_bytes()
    told: list[str] = []
    for length in range(0, len(whole), max(len(whole) // 150, 1)):
        path.write_bytes(whole[:length])
        try:
            read_onnx(path)
        except TvmMnasError as error:
            told.append(str(error))
    assert len(told) > 100
    assert not any("\n" in text for text in told)


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    net, output = plain(9)
    net.weights.append(onnx.numpy_helper.from_array(np.zeros(3, np.float32), "unused"))
    path = net.save(tmp_path / "net.onnx", [output], also_inputs=True)
    file = read_onnx(path)
    file.outputs(np.zeros((1, 3, 16, 16), np.float32))
    assert capfd.readouterr() == ("", "")
