"""What the MODEL of a command names: a network of the zoo, a notation, a finished trial, an ONNX file or a program."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tvm_mnas.errors import ConfigError
from tvm_mnas.evaluation.agreement import Judge, torch_judge
from tvm_mnas.space.architecture import Architecture
from tvm_mnas.space.candidate import Candidate, parse_candidate
from tvm_mnas.space.detector import PREFIX, DetectorArchitecture
from tvm_mnas.space.scaling import split_scaling

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram

    from tvm_mnas.compiler.core.kernel import LoweredNetwork
    from tvm_mnas.devices.core.profile import DeviceProfile
    from tvm_mnas.models.exchange.onnx_file import OnnxFile
    from tvm_mnas.models.zoo.entry import ZooEntry


Shape = tuple[int, int, int, int]
RAW = "+raw"
"""Behind a detector's name: without decoding and suppression."""
_DETECTOR_SIZE = 320
_COCO_CLASSES = 80


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A network with its weights, ready to be lowered, and who judges what becomes of it.

    `input_shape` is (N,C,H,W), or (N,H,W,C) where an ONNX file takes images so. `assumed` says what was open in a file
    and how it was closed, None where nothing was.
    """

    network: nn.Module
    input_shape: Shape
    judge: Judge
    input_dtype: str = "float32"
    assumed: str | None = None

    @classmethod
    def of_module(cls, network: nn.Module, input_shape: Shape) -> LoadedModel:
        """Return a torch network in eval mode, judged by torch."""
        judge = torch_judge(network, batch_size=input_shape[0])
        return cls(network=network, input_shape=input_shape, judge=judge)

    def lower(self, profile: DeviceProfile) -> LoweredNetwork:
        """Return it lowered for the target of `profile`, in its precision.

        Raises:
            LoweringError: if TVM cannot express it.
        """
        from tvm_mnas.compiler.lowering.lower import lower_network

        return lower_network(
            self.network,
            self.input_shape,
            profile.target,
            input_dtype=self.input_dtype,
            precision=profile.precision,
        )


@dataclass(frozen=True, kw_only=True)
class ModelRef:
    """One network by the `name` that was typed; exactly one of the four says where it comes from.

    A `raw` detector ends at what its network predicts, without decoding and suppression.
    """

    name: str
    architecture: Candidate | None = None
    entry: ZooEntry | None = None
    onnx: OnnxFile | None = None
    program: ExportedProgram | None = None
    raw: bool = False

    def __post_init__(self) -> None:
        if [self.architecture, self.entry, self.onnx, self.program].count(None) != 3:
            raise ConfigError(f"{self.name}: a model is an architecture, of the zoo, or a file")

    def build(self, *, seed: int) -> nn.Module:
        """Return the torch network in eval mode, its weights drawn from `seed`, or those of its file.

        Raises:
            ConfigError: if it is to be raw and is no detector.
            LoweringError: if there is no torch network for what is in the file.
        """
        network = self._build(seed)
        if not self.raw:
            return network
        from tvm_mnas.models.detection.detector import Detector

        if not isinstance(network, Detector):
            raise ConfigError(
                f"{RAW} ends a detector at its raw predictions, and {self.name} is none; leave it out"
            )
        return network.network

    def _build(self, seed: int) -> nn.Module:
        if self.architecture is not None:
            from tvm_mnas.models.candidates import build_candidate

            return build_candidate(self.architecture, seed=seed).eval()
        if self.entry is not None:
            return self.entry.build(seed=seed).eval()
        if self.program is not None:
            from tvm_mnas.models.exchange.exported import program_to_modules

            return program_to_modules(self.program, self.name)
        from tvm_mnas.models.exchange.onnx_network import to_torch

        assert self.onnx is not None
        return to_torch(self.onnx)

    def load(self, *, seed: int) -> LoadedModel:
        """Return the network of `build`, and its judge: torch, or for an ONNX file ONNX Runtime. Raises the same."""
        network = self.build(seed=seed)
        if self.program is not None:
            from tvm_mnas.models.exchange.exported import image_input

            shape, dtype = image_input(self.program, self.name)
            judge = torch_judge(self.program.module(), batch_size=shape[0])
            return LoadedModel(network=network, input_shape=shape, judge=judge, input_dtype=dtype)
        if self.onnx is None:
            return LoadedModel.of_module(network, self.input_shape)
        from tvm_mnas.models.exchange.onnx_file import runtime_version

        return LoadedModel(
            network=network,
            input_shape=self.input_shape,
            judge=Judge(name=f"ONNX Runtime {runtime_version()}", outputs=self.onnx.outputs),
            input_dtype=self.onnx.input_dtype,
            assumed=self.onnx.assumed,
        )

    @property
    def input_shape(self) -> Shape:
        """(1,C,H,W) of one image, or what the file says."""
        if self.architecture is not None:
            return self.architecture.image_shape
        if self.entry is not None:
            return self.entry.input_shape
        if self.program is not None:
            from tvm_mnas.models.exchange.exported import image_input

            return image_input(self.program, self.name)[0]
        assert self.onnx is not None
        return self.onnx.input_shape


def resolve_model(text: str, *, input_shape: Shape | None = None) -> ModelRef:
    """Return the network that `text` names: a key of the zoo, a notation, an .onnx or .pt2 file, or RUN:TRIAL.

    `input_shape` closes axes that are open in a file; anything else has a shape of its own.

    All but the file may be scaled: `mobilenet-v2@0.5` has half the filters, `mobilenet-v2@0.5,160` also takes 160
    pixels. `ssdlite+` before a network makes it a detector, and `+raw` behind a detector ends it at its predictions.

    Raises:
        ConfigError: if there is no such file, finished trial, or key, or the network cannot be scaled; if a file
            cannot be read, or its input's shape is open or another.
        LoweringError: if what is in a file cannot be compiled.
        SpaceError: if it is no notation, or no scale.
    """
    path = Path(text)
    if path.suffix == ".onnx":
        if not path.is_file():
            raise ConfigError(f"cannot find the ONNX file {text}; check the path")
        from tvm_mnas.models.exchange.onnx_file import read_onnx

        return ModelRef(name=text, onnx=read_onnx(path, input_shape=input_shape))
    if path.suffix == ".pt2":
        if not path.is_file():
            raise ConfigError(f"cannot find the exported program {text}; check the path")
        from tvm_mnas.models.exchange.exported import read_program

        model = ModelRef(name=text, program=read_program(path))
        if input_shape is not None and model.input_shape != input_shape:
            raise ConfigError(
                f"{text}: --input-shape must be the program's {model.input_shape}, not {input_shape}; a program is "
                f"exported for one shape"
            )
        return model
    if input_shape is not None:
        raise ConfigError(f"--input-shape is for files, and {text!r} is none; leave it out")
    if text.endswith(RAW):
        return replace(resolve_model(text.removesuffix(RAW)), name=text, raw=True)
    if text.startswith(PREFIX):
        return ModelRef(name=text, architecture=_detector(text.removeprefix(PREFIX)))
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


def _detector(text: str) -> DetectorArchitecture:
    """Return SSDLite on the network that `text` names; one of the zoo takes 320 pixels, and COCO's classes.

    Raises what `resolve_architecture` raises.
    """
    if ":" in text:
        return DetectorArchitecture.parse(PREFIX + text)
    backbone = replace(resolve_architecture(text), classes=_COCO_CLASSES)
    if "," not in text:
        backbone = replace(backbone, input_size=_DETECTOR_SIZE)
    return DetectorArchitecture(backbone)


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
