"""Weights on disk: safetensors, with the architecture they belong to in the file's header."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from tvm_mnas.errors import RunError, SpaceError
from tvm_mnas.files import atomic_write
from tvm_mnas.models.candidates import build_candidate
from tvm_mnas.models.detection.detector import Detector
from tvm_mnas.models.network import Network
from tvm_mnas.space.candidate import Candidate, parse_candidate

_BACKBONE = "network.backbone."
_OF_CLASSES = ("classifier.", "network.heads.logits.")


def save_weights(network: nn.Module, path: Path, candidate: Candidate | None = None) -> None:
    """Write all weights and statistics of `network` to `path`, replacing it in one step.

    The file names `candidate`, or the architecture that the network was built of.
    """
    if candidate is None:
        assert isinstance(network, Network)
        candidate = network.architecture
    state = {
        name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()
    }
    with atomic_write(path) as part:
        save_file(state, part, metadata={"architecture": candidate.notation})


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
    _fill(network, state, f"{path} lacks weights of {stored.notation!r} or has others")


def load_checkpoint(network: nn.Module, path: Path) -> None:
    """Fill any `network` with the weights at `path`, which somebody saved under the names of its `state_dict`.

    Raises:
        RunError: the file is missing or damaged, or has other names or shapes.
    """
    _fill(
        network,
        _read_state(path)[1],
        f"a checkpoint has the names and shapes of the network's state_dict, and {path} does not",
    )


def load_start(network: nn.Module, path: Path) -> tuple[str, ...]:
    """Fill `network` with the weights at `path` but for a classifier of other classes; return what kept its own.

    A detector may start from a classifier's weights, of which it takes the backbone's, or from a detector's of other
    classes.

    Raises:
        RunError: the file is missing or damaged, or differs in more than the classifier.
    """
    state, expected = _read_state(path)[1], network.state_dict()
    if isinstance(network, Detector) and "classifier.weight" in state:
        state = {
            f"{_BACKBONE}{name}": value
            for name, value in state.items()
            if not name.startswith("classifier.")
        }
        kept = tuple(name for name in expected if not name.startswith(_BACKBONE))
    else:
        kept = tuple(
            name
            for name in expected
            if name.startswith(_OF_CLASSES)
            and name in state
            and state[name].shape != expected[name].shape
        )
    filled = state | {name: expected[name] for name in kept}
    _fill(
        network,
        filled,
        f"weights to start with differ in the classifier at most, and {path} in more",
    )
    return kept


def load_network(path: Path) -> tuple[Candidate, nn.Module]:
    """Return the candidate that the weights at `path` belong to, and its network in eval mode with these weights.

    Raises:
        RunError: the file is missing or damaged.
        ConfigError: the builder of a candidate of one's own cannot be imported.
    """
    stored, state = _read(path)
    network = build_candidate(stored, seed=0)
    _fill(network, state, f"{path} lacks weights of {stored.notation!r} or has others")
    return stored, network.eval()


def _fill(network: nn.Module, state: dict[str, torch.Tensor], problem: str) -> None:
    expected = network.state_dict()
    lacking = [name for name in expected if name not in state]
    unknown = [name for name in state if name not in expected]
    differing = [
        name for name in expected if name in state and state[name].shape != expected[name].shape
    ]
    told = [
        f"{len(names)} {what}, such as {names[0]}"
        for names, what in ((lacking, "lack"), (unknown, "are unknown"), (differing, "differ"))
        if names
    ]
    if told:
        raise RunError(f"{problem} ({'; '.join(told)}); export it again")
    network.load_state_dict(state)


def _read_state(path: Path) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            return metadata, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise RunError(f"weights cannot be read from {path}: {error}") from error


def _read(path: Path) -> tuple[Candidate, dict[str, torch.Tensor]]:
    metadata, state = _read_state(path)
    if "architecture" not in metadata:
        raise RunError(f"{path} does not say which architecture its weights belong to")
    try:
        return parse_candidate(metadata["architecture"]), state
    except SpaceError as error:
        raise RunError(f"weights cannot be read from {path}: {error}") from error
