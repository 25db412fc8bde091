"""Weights on disk: safetensors, with the architecture they belong to in the file's header."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from tvm_mnas.errors import RunError, SpaceError
from tvm_mnas.models.network import Network, build_network
from tvm_mnas.space.architecture import Architecture


def save_weights(network: Network, path: Path) -> None:
    """Write all weights and statistics of `network` to `path`, replacing it in one step."""
    state = {
        name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()
    }
    part = path.with_name(path.name + ".part")
    save_file(state, part, metadata={"architecture": network.architecture.notation})
    part.replace(path)


def load_weights(network: Network, path: Path) -> None:
    """Fill `network` with the weights at `path`; its mode stays as it is.

    Raises:
        RunError: the file is missing or damaged, or belongs to another architecture.
    """
    stored, state = _read(path)
    if stored.id != network.architecture.id:
        raise RunError(
            f"weights belong to the architecture they were trained with: {path} is of "
            f"{stored.notation!r}, not {network.architecture.notation!r}"
        )
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise RunError(
            f"{path} lacks weights of {stored.notation!r} or has others; export the trial again"
        ) from error


def load_network(path: Path) -> Network:
    """Return the network, in eval mode, that the weights at `path` belong to.

    Raises:
        RunError: the file is missing or damaged.
    """
    network = build_network(_read(path)[0])
    load_weights(network, path)
    return network.eval()


def _read(path: Path) -> tuple[Architecture, dict[str, torch.Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise RunError(f"weights cannot be read from {path}: {error}") from error
    if "architecture" not in metadata:
        raise RunError(f"{path} does not say which architecture its weights belong to")
    try:
        return Architecture.parse(metadata["architecture"]), state
    except SpaceError as error:
        raise RunError(f"weights cannot be read from {path}: {error}") from error
