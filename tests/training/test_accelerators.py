"""Which device a training takes: what is there is taken, what is not is one line."""

from __future__ import annotations

import pytest
import torch

from tvm_mnas.errors import ConfigError
from tvm_mnas.training.accelerators import WORKER_VARIABLE, device_here, find_devices


def test_auto_takes_every_accelerator_or_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert find_devices("auto") == find_devices("cpu") == ("cpu",)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert find_devices("auto") == find_devices("cuda") == ("cuda:0", "cuda:1", "cuda:2")
    assert find_devices("cuda:1") == ("cuda:1",)
    assert find_devices("cpu") == ("cpu",)


@pytest.mark.parametrize(
    ("text", "words"),
    [("gpu", "auto, cpu, cuda or cuda:N, not 'gpu'"), ("cuda:", "not 'cuda:'"), ("", "not ''")],
)
def test_what_names_no_device_is_one_line(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        find_devices(text)


def test_an_accelerator_that_is_not_there_is_told_with_what_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match="cannot train on cuda:2: .* sees cuda:0, cuda:1"):
        find_devices("cuda:2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ConfigError, match="sees no accelerator; take --train-device auto or cpu"):
        find_devices("cuda")


def test_workers_take_devices_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    devices = ("cuda:0", "cuda:1")
    monkeypatch.delenv(WORKER_VARIABLE, raising=False)
    assert device_here(devices) == "cuda:0"
    found = []
    for number in range(4):
        monkeypatch.setenv(WORKER_VARIABLE, str(number))
        found.append(device_here(devices))
    assert found == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]
