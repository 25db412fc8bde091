"""What the MODEL of a command names: a network of the zoo, a notation, a finished trial or an ONNX file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tvm_mnas.errors import ConfigError
from tvm_mnas.space.architecture import Architecture
from tvm_mnas.space.candidate import Candidate, parse_candidate
from tvm_mnas.space.scaling import split_scaling

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from tvm_mnas.compiler.core.kernel import LoweredNetwork
    from tvm_mnas.models.zoo.entry import ZooEntry


@dataclass(frozen=True, kw_only=True)
class ModelRef:
    """One network by the `name` that was typed; exactly one of the three says where it comes from."""

    name: str
    architecture: Candidate | None = None
    entry: ZooEntry | None = None
    onnx_file: Path | None = None

    def __post_init__(self) -> None:
        if [self.architecture, self.entry, self.onnx_file].count(None) != 2:
            raise ConfigError(f"{self.name}: a model is an architecture, of the zoo, or a file")

    def build(self, *, seed: int) -> nn.Module | None:
        """Return the torch network in eval mode, its weights drawn from `seed`; None for an ONNX file."""
        if self.architecture is not None:
            from tvm_mnas.models.candidates import build_candidate

            return build_candidate(self.architecture, seed=seed).eval()
        return None if self.entry is None else self.entry.build(seed=seed).eval()

    def lower(self, network: nn.Module | None, target: str) -> LoweredNetwork:
        """Return what :meth:`build` returned, lowered for `target`.

        Raises:
            LoweringError: if TVM cannot express it.
        """
        from tvm_mnas.compiler.lowering.lower import lower_network, lower_onnx

        if network is None:
            assert self.onnx_file is not None
            return lower_onnx(self.onnx_file, target)
        return lower_network(network, self.input_shape, target)

    def outputs(
        self, network: nn.Module | None, images: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Return what :meth:`build`'s network, or ONNX's own reference, computes of `images` (N,C,H,W)."""
        from tvm_mnas.models.inference import predict, predict_onnx

        if network is None:
            assert self.onnx_file is not None
            return predict_onnx(self.onnx_file, images)
        return predict(network, images)

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """(1,C,H,W) of one image; an ONNX file is lowered to know it."""
        if self.architecture is not None:
            return self.architecture.image_shape
        assert self.entry is not None
        return self.entry.input_shape


def resolve_model(text: str) -> ModelRef:
    """Return the network that `text` names: a key of the zoo, a notation, an .onnx file, or RUN:TRIAL.

    All but the file may be scaled: `mobilenet-v2@0.5` has half the filters, `mobilenet-v2@0.5,160` also takes 160
    pixels.

    Raises:
        ConfigError: if there is no such file, finished trial, or key, or the network cannot be scaled.
        SpaceError: if it is no notation, or no scale.
    """
    path = Path(text)
    if path.suffix == ".onnx":
        if not path.is_file():
            raise ConfigError(f"{text}: an ONNX model is a file that is there; check the path")
        return ModelRef(name=text, onnx_file=path)
    if "?" in text:
        return ModelRef(name=text, architecture=parse_candidate(text))
    run, colon, trial = text.rpartition(":")
    if colon and trial.isdecimal() and Path(run).is_dir():
        return ModelRef(name=text, architecture=_trial(Path(run), int(trial)))
    from tvm_mnas.models.zoo.registry import zoo_entry

    base, scaling = split_scaling(text)
    if scaling is not None:
        widens_head = ":" not in base and zoo_entry(base).widens_head
        return ModelRef(
            name=text,
            architecture=scaling.apply(resolve_architecture(base), widens_head=widens_head),
        )
    if ":" in text:
        return ModelRef(name=text, architecture=Architecture.parse(text))
    entry = zoo_entry(text)
    if entry.architecture is not None:
        return ModelRef(name=text, architecture=entry.architecture)
    return ModelRef(name=text, entry=entry)


def resolve_architecture(text: str) -> Architecture:
    """Return the sequence of blocks that `text` names: what `resolve_model` takes, but no file and no other network.

    Raises what `resolve_model` raises.
    """
    architecture = resolve_model(text).architecture
    if not isinstance(architecture, Architecture):
        raise ConfigError(
            f"{text!r} is no sequence of blocks; name a network that `tvm-mnas zoo --json` has a notation of"
        )
    return architecture


def _trial(run: Path, trial: int) -> Candidate:
    from tvm_mnas.search.run import RunDirectory

    for record in RunDirectory.open(run).finished_trials():
        if record.number == trial:
            return record.evaluation.architecture
    raise ConfigError(f"{run} has no finished trial {trial}; `tvm-mnas report {run}` lists them")
