"""Which devices networks are trained on: the CPU, or accelerators that torch sees."""

from __future__ import annotations

import os
import re

from tvm_mnas.errors import ConfigError

WORKER_VARIABLE = "TVM_MNAS_WORKER"
"""In a training's worker process: its number, counted from zero."""
_FORM = re.compile(r"auto|cpu|cuda(:\d+)?")


def check_device(text: str) -> None:
    """Refuse what names no device, without looking what is there.

    Raises:
        ConfigError: if it is none of auto, cpu, cuda, cuda:N.
    """
    if not _FORM.fullmatch(text):
        raise ConfigError(f"train_device must be auto, cpu, cuda or cuda:N, not {text!r}")


def find_devices(text: str) -> tuple[str, ...]:
    """Return the devices that `text` names: `auto` and `cuda` are every accelerator, `auto` the CPU if there is none.

    Raises:
        ConfigError: if it names none, or one that is not there.
    """
    check_device(text)
    if text == "cpu":
        return ("cpu",)
    import torch

    there = tuple(f"cuda:{number}" for number in range(torch.cuda.device_count()))
    if text == "auto":
        return there or ("cpu",)
    wanted = there if text == "cuda" else tuple(name for name in there if name == text)
    if not wanted:
        seen = f"torch {torch.__version__} sees {', '.join(there) or 'no accelerator'}"
        raise ConfigError(f"cannot train on {text}: {seen}; take --train-device auto or cpu")
    return wanted


def device_here(devices: tuple[str, ...]) -> str:
    """Return the one of `devices` that this process trains on: workers take them in turn."""
    return devices[int(os.environ.get(WORKER_VARIABLE, "0")) % len(devices)]
