"""torch's exported programs as networks of modules that compute the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tvm_mnas.errors import ConfigError, LoweringError
from tvm_mnas.models.exchange.exported import image_input, program_to_modules, read_program


class Functional(nn.Module):
    """Everything by functions, much of it in place, as people write it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.wide = nn.Conv2d(4, 8, (1, 3), padding=(0, 1))
        self.up = nn.ConvTranspose2d(8, 8, 2, 2)
        self.dense = nn.Linear(8, 5)

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        features = F.relu6(self.norm(self.stem(images)), inplace=True)
        left, right = features.chunk(2, dim=1)
        features = F.hardswish(self.wide(left)) + F.silu(self.wide(right))
        features *= torch.sigmoid(F.adaptive_avg_pool2d(features, 1))
        if features.shape[2] > 2:
            features = F.max_pool2d(self.up(features), 3, 2, 1)
        features += 1
        pooled = features.mean(dim=(2, 3))
        return self.dense(F.dropout(pooled, 0.3, self.training)), [pooled, torch.tanh(features)]


def program(network: nn.Module, *examples: Tensor) -> torch.export.ExportedProgram:
    return torch.export.export(network.eval(), examples or (torch.zeros(1, 3, 16, 16),))


def test_it_computes_the_same_in_modules(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Functional().train()
    for _ in range(5):
        network(torch.randn(4, 3, 16, 16))
    path = tmp_path / "net.pt2"
    torch.export.save(program(network), path)
    read = read_program(path)
    assert image_input(read, "net.pt2") == ((1, 3, 16, 16), "float32")
    modules = program_to_modules(read, "net.pt2")
    images = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        logits, (pooled, features) = network.eval()(images)
        found = modules(images)
    assert len(found) == 3
    for got, expected in zip(found, (logits, pooled, features), strict=True):
        assert expected.std() > 0
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    kinds = {type(module) for module in modules.modules()}
    assert {
        nn.Conv2d, nn.BatchNorm2d, nn.ReLU6, nn.Hardswish, nn.SiLU, nn.Sigmoid, nn.AdaptiveAvgPool2d,
        nn.ConvTranspose2d, nn.MaxPool2d, nn.Tanh, nn.Linear,
    } <= kinds  # fmt: skip


def test_bytes_stay_bytes() -> None:
    class Bytes(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return (images.permute(0, 3, 1, 2).float() / 255).mean(dim=(2, 3))

    exported = program(Bytes(), torch.zeros(1, 8, 8, 3, dtype=torch.uint8))
    assert image_input(exported, "it") == ((1, 8, 8, 3), "uint8")
    images = torch.randint(0, 256, (1, 8, 8, 3), dtype=torch.uint8)
    torch.testing.assert_close(program_to_modules(exported, "it")(images), Bytes()(images))


def test_two_inputs_are_refused_by_their_names() -> None:
    class Two(nn.Module):
        def forward(self, images: Tensor, mask: Tensor) -> Tensor:
            return images * mask

    exported = program(Two(), torch.zeros(1, 3, 8, 8), torch.zeros(1, 1, 8, 8))
    with pytest.raises(LoweringError, match=r"this one has 2 \(images, mask\)"):
        program_to_modules(exported, "it")


@pytest.mark.parametrize(
    "example",
    [torch.zeros(3, 8, 8), torch.zeros(1, 3, 8, 8, dtype=torch.float64)],
    ids=["axes", "type"],
)
def test_what_is_no_image_is_refused(example: Tensor) -> None:
    with pytest.raises(LoweringError, match="'input' must be an image with four fixed sizes"):
        program_to_modules(program(nn.Identity(), example), "it")


def test_an_open_batch_is_refused() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()).eval()
    batch = torch.export.Dim("batch", min=1, max=8)
    exported = torch.export.export(
        network, (torch.zeros(2, 3, 8, 8),), dynamic_shapes=({0: batch},)
    )
    with pytest.raises(LoweringError, match="four fixed sizes"):
        program_to_modules(exported, "it")


def test_outputs_without_the_image_are_refused() -> None:
    class Still(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.ones(1, 3)

    with pytest.raises(LoweringError, match="no output depends on its input"):
        program_to_modules(program(Still()), "it")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 nothing", b"text\n"])
def test_a_file_that_is_no_program_is_one_line_with_its_name(
    content: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "net.pt2"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"net\.pt2.*torch\.export\.save") as raised:
        read_program(path)
    assert "\n" not in str(raised.value)
