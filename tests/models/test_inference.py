"""numpy in and out, and ONNX, agree with torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tvm_mnas.errors import LoweringError
from tvm_mnas.models.inference import export_onnx, predict, predict_onnx
from tvm_mnas.models.network import build_network
from tvm_mnas.space.architecture import Architecture

ARCHITECTURE = Architecture.parse(
    "i32_c3_w1:stem8_s22:r2_k3_s11_conv_o8_max:r2_k3_s22_e3_o16_se0.25:r1_k5_s22_e1_o24:head32:n10"
)


def test_predict_is_torch_in_eval_mode() -> None:
    network = build_network(ARCHITECTURE, seed=3).train()
    images = np.random.default_rng(0).standard_normal((4, 3, 32, 32), dtype=np.float32)
    logits = predict(network, images)
    with torch.no_grad():
        expected = network.eval()(torch.from_numpy(images)).numpy()
    assert logits.std() > 0.01
    np.testing.assert_array_equal(logits, expected)


def test_the_onnx_file_computes_the_same(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    runtime = pytest.importorskip("onnxruntime")
    network = build_network(ARCHITECTURE, seed=3)
    path = tmp_path / "net.onnx"
    export_onnx(network, (1, 3, 32, 32), path)
    images = np.random.default_rng(0).standard_normal((1, 3, 32, 32), dtype=np.float32)
    session = runtime.InferenceSession(str(path))
    assert [node.name for node in session.get_inputs()] == ["images"]
    (logits,) = session.run(["logits"], {"images": images})
    np.testing.assert_allclose(logits, predict(network, images), atol=1e-5)
    assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"]
    assert "torchvision" not in capfd.readouterr().err


def test_onnx_s_own_reference_computes_the_same(tmp_path: Path) -> None:
    network = build_network(ARCHITECTURE, seed=3)
    export_onnx(network, (1, 3, 32, 32), tmp_path / "net.onnx")
    images = np.random.default_rng(0).standard_normal((2, 3, 32, 32), dtype=np.float32)
    logits = predict_onnx(tmp_path / "net.onnx", images)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, predict(network, images), atol=1e-5)


def test_what_the_reference_cannot_compute_is_one_clear_error(tmp_path: Path) -> None:
    from onnx import TensorProto, helper, save

    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 4, 4])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 3, 4, 4])
    node = helper.make_node("Unheard", ["images"], ["logits"], domain="nobody")
    graph = helper.make_graph([node], "net", [images], [logits])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("nobody", 1)]
    save(helper.make_model(graph, opset_imports=opsets), tmp_path / "net.onnx")
    with pytest.raises(
        LoweringError, match=r"net\.onnx with ONNX's reference: NotImplementedError"
    ):
        predict_onnx(tmp_path / "net.onnx", np.zeros((1, 3, 4, 4), np.float32))
