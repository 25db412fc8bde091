"""numpy in and out, and ONNX, agree with torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tvm_mnas.models.inference import all_outputs, export_onnx, predict
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


class _Two(nn.Module):
    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        return images.mean(dim=(2, 3)), [images[:, :1], images * 2]


def test_all_outputs_come_in_order_whatever_holds_them_and_in_batches() -> None:
    images = np.random.default_rng(0).standard_normal((4, 3, 5, 5), dtype=np.float32)
    means, first, doubled = all_outputs(_Two(), images, batch_size=2)
    np.testing.assert_allclose(means, images.mean(axis=(2, 3)), atol=1e-6)
    np.testing.assert_array_equal(first, images[:, :1])
    np.testing.assert_array_equal(doubled, images * 2)
