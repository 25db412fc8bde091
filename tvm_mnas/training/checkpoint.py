"""A training's whole state in one file, never pickled: a resumed training is the uninterrupted one, bit for bit.

    network.*  average.*        weights and statistics, and their moving average
    optimizer.N.*               what the optimizer keeps of the N-th weight
    losses                      the recent losses
    header                      what is trained, the step, the scaler of losses

Random choices need no state: order and crops follow from the seed and the step, and dropout is seeded at each step.
"""

from __future__ import annotations

import json
from collections import deque
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tvm_mnas.errors import RunError
from tvm_mnas.files import atomic_write
from tvm_mnas.training.loop import LOSS_WINDOW, TrainingState

SCHEMA = 1


def save_checkpoint(state: TrainingState, path: Path, *, facts: dict[str, Any]) -> None:
    """Write `state` to `path`, replacing it in one step; `facts` say what is trained, as JSON."""
    tensors: dict[str, Tensor] = {}
    for name, value in state.network.state_dict().items():
        tensors[f"network.{name}"] = value
    if state.average is not None:
        for name, value in state.average.state_dict().items():
            tensors[f"average.{name}"] = value
    numbers: dict[str, float] = {}
    for index, kept in state.optimizer.state_dict()["state"].items():
        for name, value in kept.items():
            key = f"optimizer.{index}.{name}"
            if isinstance(value, Tensor):
                tensors[key] = value
            elif value is not None:
                numbers[key] = value
    tensors["losses"] = torch.tensor(list(state.losses), dtype=torch.float64)
    header = {
        "schema": SCHEMA,
        "facts": facts,
        "step": state.step,
        "numbers": numbers,
        "scaler": state.scaler.state_dict(),
    }
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with atomic_write(path) as part:
        save_file(plain, part, metadata={"checkpoint": json.dumps(header)})


def load_checkpoint_into(state: TrainingState, path: Path, *, facts: dict[str, Any]) -> None:
    """Bring `state`, which is that before a first step, to what is in `path`.

    Raises:
        RunError: the file is missing, damaged, or of another training than `facts` say.
    """
    header, tensors = _read(path)
    differing = [key for key, value in facts.items() if header["facts"].get(key) != value]
    if differing:
        key = differing[0]
        raise RunError(
            f"{path} is of another training: its {key} is {_short(header['facts'].get(key))}, "
            f"not {_short(facts[key])}; resume that one, or start anew in another directory"
        )
    try:
        state.network.load_state_dict(_below("network.", tensors))
        if state.average is not None:
            state.average.load_state_dict(_below("average.", tensors))
        kept: dict[int, dict[str, Any]] = {}
        weights = [one for group in state.optimizer.param_groups for one in group["params"]]
        held = _below("optimizer.", tensors | header["numbers"])
        for key, value in held.items():
            index, _, name = key.partition(".")
            kept.setdefault(int(index), {})[name] = _laid_out_as(weights[int(index)], value)
        groups = state.optimizer.state_dict()["param_groups"]
        state.optimizer.load_state_dict({"state": kept, "param_groups": groups})
        state.scaler.load_state_dict(header["scaler"])
        state.losses = deque(tensors["losses"].tolist(), maxlen=LOSS_WINDOW)
        state.step = int(header["step"])
    except (IndexError, KeyError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"{path} does not fit the network ({reason}); start anew") from error


def _laid_out_as(weight: Tensor, value: Any) -> Any:
    """Return `value` with the strides of its weight: fused optimizers go through both in the order of memory."""
    if not isinstance(value, Tensor) or value.shape != weight.shape:
        return value
    return torch.empty_like(weight).copy_(value).detach()


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("checkpoint", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise RunError(f"a checkpoint cannot be read from {path}: {error}; start anew") from error
    if header.get("schema") != SCHEMA:
        raise RunError(
            f"{path} is no checkpoint of version {SCHEMA}; start anew in another directory"
        )
    return header, tensors


def _below(prefix: str, values: dict[str, Any]) -> dict[str, Any]:
    return {
        name.removeprefix(prefix): value
        for name, value in values.items()
        if name.startswith(prefix)
    }


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
