"""The latency of any network, from Python: on this machine, and what is refused before anything is started."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from tvm_mnas.devices.core.latency import Latency
from tvm_mnas.errors import (
    ConfigError,
    DeviceError,
    LoweringError,
    MeasurementError,
    ProfileError,
    SpaceError,
)
from tvm_mnas.models.inference import export_onnx
from tvm_mnas.space.architecture import Architecture
from tvm_mnas.workflows.oracle import Device

SHAPE = (1, 3, 8, 8)
NOTATION = "i8_c3_w1:stem8_s22:r1_k3_s11_e1_i8_o8:head8:n4"


class Nonsense(nn.Module):
    """Returns what has no value, and hides it from a device whose maximum of NaN and 0 is 0."""

    def __init__(self, *, rectified: bool) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 8, 3)
        self.rectified = rectified

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        outputs = torch.sqrt(-1 - self.layer(images).abs()).mean(dim=(2, 3))
        return outputs.relu() if self.rectified else outputs


class Inexpressible(nn.Module):
    """Decides by what it sees, which no graph can say."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images * 2 if images.sum() > 0 else images


def network(width: int = 8) -> nn.Module:
    """Return a convolution and a classifier: images (N,3,8,8) -> logits (N,4)."""
    torch.manual_seed(width)
    return nn.Sequential(
        nn.Conv2d(3, width, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, 4),
    )


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    """This machine's own; what a few schedules leave untuned is let in."""
    with Device.open(
        "local",
        records=tmp_path_factory.mktemp("records"),
        schedules_per_kernel=1,
        max_untuned_share=0.99,
    ) as opened:
        yield opened


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "net.onnx"
    export_onnx(network(), SHAPE, path)
    return path


def assert_measured(latency: Latency, device: Device) -> None:
    """Look at everything that tells where a latency comes from."""
    assert latency.latency_ms > 0
    assert len(latency.samples_ms) == device.profile.timing.repeat
    assert latency.device_key == "local"
    assert latency.target == device.profile.target
    assert latency.fingerprint and latency.tvm_version and latency.measured_at
    assert not latency.emulated
    assert 0 < latency.coverage.tuned_kernels <= latency.coverage.kernels
    assert latency.coverage.schedules >= latency.coverage.tuned_kernels
    assert latency.reference_ms is not None
    assert Latency.from_json(latency.to_json()) == latency


def test_a_module_of_ones_own_is_timed_and_stays_as_it_is(device: Device) -> None:
    module = network().train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    assert_measured(device.latency(module, SHAPE), device)
    assert module.training
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])


def test_an_onnx_file_is_timed_with_the_kernels_of_the_module_it_was_made_from(
    device: Device, onnx_file: Path
) -> None:
    known = device.latency(network(), SHAPE).coverage
    latency = device.latency(onnx_file)
    assert_measured(latency, device)
    assert latency.coverage.kernels == known.kernels


def test_several_come_in_order_and_a_notation_is_its_architecture(
    device: Device, onnx_file: Path
) -> None:
    parsed = Architecture.parse(NOTATION)
    large = nn.Sequential(*[nn.Conv2d(3, 3, 3, padding=1) for _ in range(12)], nn.Flatten())
    latencies = device.latencies(
        [(large, (1, 3, 32, 32)), (NOTATION, None), (network(), SHAPE), (parsed, None)]
    )
    assert len(latencies) == 4
    for latency in latencies:
        assert_measured(latency, device)
    assert len({latency.fingerprint for latency in latencies}) == 1
    # One path for all: the same network has the same kernels and records, whatever it was given as, and alone too.
    _, of_text, of_module, of_parsed = (latency.coverage for latency in latencies)
    assert (of_text.kernels, of_text.schedules) == (of_parsed.kernels, of_parsed.schedules)
    assert of_module.kernels == device.latency(network(), SHAPE).coverage.kernels
    # Each stands where it was asked for: these differ in their kernels, and the first is by far the slowest.
    assert of_text.kernels != of_module.kernels
    slowest = max(latencies, key=lambda latency: latency.latency_ms)
    assert slowest is latencies[0]


def test_no_networks_have_no_latencies_and_start_nothing() -> None:
    with Device.open("local") as device:
        assert device.latencies([]) == []
        assert device._toolchain is None


def test_a_module_that_returns_nan_has_no_latency(device: Device) -> None:
    with pytest.raises(MeasurementError, match="outputs on the device must be finite"):
        device.latency(Nonsense(rectified=False), SHAPE)


def test_outputs_that_only_torch_has_no_value_for_agree_with_nothing(device: Device) -> None:
    with pytest.raises(MeasurementError, match="those of torch .* must be finite"):
        device.latency(Nonsense(rectified=True), SHAPE)


def test_a_module_that_tvm_cannot_express_is_refused(device: Device) -> None:
    with pytest.raises(LoweringError) as caught:
        device.latency(Inexpressible(), SHAPE)
    assert "\n" not in str(caught.value)


def test_a_module_that_does_not_take_the_shape_is_refused(device: Device) -> None:
    with pytest.raises(LoweringError):
        device.latency(network(), (1, 5, 8, 8))


@pytest.mark.parametrize("shape", [None, (3, 8, 8), (0, 3, 8, 8)])
def test_a_module_comes_with_its_shape(shape: object) -> None:
    with Device.open("local") as device:
        with pytest.raises(ConfigError, match=r"one input shape \(N,C,H,W\).*for example"):
            device.latency(network(), shape)  # type: ignore[arg-type]
        assert device._toolchain is None, "something was started for it"


def test_what_is_no_network_is_named() -> None:
    with Device.open("local") as device:
        with pytest.raises(ConfigError, match=r"cannot time dict: it is a torch\.nn\.Module"):
            device.latency({}, SHAPE)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match=r"cannot find the ONNX file gone\.onnx"):
            device.latency("gone.onnx")
        with pytest.raises(SpaceError):
            device.latency("i8_c3_w1:nonsense")
        with pytest.raises(ConfigError, match="mobilenot"):
            device.latency("mobilenot")


def test_a_wrong_network_among_others_is_found_before_anything_is_started() -> None:
    with Device.open("local") as device:
        with pytest.raises(ConfigError, match="input shape"):
            device.latencies([(network(), SHAPE), (network(), None)])
        assert device._toolchain is None


def test_a_device_without_a_profile_is_refused() -> None:
    with pytest.raises(ProfileError, match="toaster"):
        Device.open("toaster")


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_of_untuned_kernels_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(ConfigError, match="max_untuned_share"):
        Device.open("local", max_untuned_share=share)


def test_a_closed_device_says_so() -> None:
    with Device.open("local") as device:
        pass
    with pytest.raises(DeviceError, match=r"was closed; open it again with Device\.open"):
        device.latency(network(), SHAPE)
