"""A latency oracle for any network: three lines in a notebook, an Optuna study or another search.

    with Device.open("rpi4") as device:
        latency = device.latency(module, (1, 3, 224, 224))
        print(latency.latency_ms, latency.spread, latency.fingerprint)

Each latency is obtained as a search obtains it: kernels that the device's records lack are tuned, the outputs are
compared with torch's, then the network is timed with nothing else of ours running there.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TypeAlias

from tvm_mnas.config import SearchConfig
from tvm_mnas.errors import ConfigError, DeviceError
from tvm_mnas.evaluation.agreement import Judge
from tvm_mnas.evaluation.toolchain import Toolchain, ToolchainOptions, open_scratch_toolchain
from tvm_mnas.processes import ensure_home
from tvm_mnas.space.candidate import Candidate
from tvm_mnas.workflows.model_ref import LoadedModel, ModelRef, Shape, resolve_model

if TYPE_CHECKING:
    from torch import nn

    from tvm_mnas.compiler.build.artifact import CompiledArtifact
    from tvm_mnas.devices.core.latency import Latency
    from tvm_mnas.devices.core.profile import DeviceProfile

_DEFAULTS = SearchConfig()

Network: TypeAlias = "nn.Module | Candidate | str | Path"
"""A torch module; an `Architecture` or another candidate; a notation, a key of the zoo or RUN:TRIAL; a file."""


class Device:
    """Every device of one profile, ready to time networks; a context manager, or closed by `close`.

    Made by `open`. Its processes start with the first latency and end with `close`, or with the program.
    """

    def __init__(
        self,
        profile: DeviceProfile,
        options: ToolchainOptions,
        *,
        on_warning: Callable[[str], None],
    ) -> None:
        self.profile = profile
        self._options = options
        self._on_warning = on_warning
        self._stack = contextlib.ExitStack()
        self._toolchain: Toolchain | None = None
        self._directory = Path()
        self._closed = False

    @classmethod
    def open(
        cls,
        device: str = _DEFAULTS.device,
        *,
        records: str | Path = _DEFAULTS.records,
        schedules_per_kernel: int = _DEFAULTS.schedules_per_kernel,
        max_untuned_share: float = _DEFAULTS.max_untuned_share,
        seed: int = _DEFAULTS.seed,
        on_warning: Callable[[str], None] = lambda text: None,
    ) -> Device:
        """Return the device whose profile is called `device`, or is in that file; `local` is this machine.

        `records` is where tuning records are kept, `schedules_per_kernel` how many are measured for a kernel that they
        lack, `max_untuned_share` (0..1) the part of a run time that may be in kernels without a record. `on_warning`
        gets a line where a device is slow or changed.

        Raises:
            ProfileError: if there is no such profile, or it breaks a rule.
        """
        from tvm_mnas.devices.core.profile import load_profile

        ensure_home()
        return cls(
            load_profile(device),
            ToolchainOptions(
                records=Path(records),
                schedules_per_kernel=schedules_per_kernel,
                seed=seed,
                max_untuned_share=max_untuned_share,
            ),
            on_warning=on_warning,
        )

    @property
    def capacity(self) -> int:
        """How many devices of the profile measure at a time."""
        return self._opened().farm.capacity

    def latency(self, network: Network, input_shape: Shape | None = None) -> Latency:
        """Return the latency of `network` for one input of `input_shape` (N,C,H,W).

        The shape is needed for a torch module, and where an ONNX file leaves its own open. The module itself stays as
        it is.

        Raises:
            ConfigError: if a torch module comes without its shape, or a text names no network.
            CandidateError: if it cannot be lowered, compiled or measured, or computes something else than torch, or for
                an ONNX file than ONNX Runtime.
            DeviceError: if the device cannot be reached.
        """
        (latency,) = self.latencies([(network, input_shape)])
        return latency

    def latencies(self, networks: Sequence[tuple[Network, Shape | None]]) -> list[Latency]:
        """Return the latency of each `(network, input_shape)`, in order; all devices of the profile measure.

        Kernels that several networks share are tuned once. The `device_key` and `fingerprint` of a latency tell where
        it was measured.

        Raises what `latency` raises, at the first network that fails.
        """
        if not networks:
            return []
        prepared = [self._prepare(network, shape) for network, shape in networks]
        toolchain = self._opened()
        loaded = [self._load(subject) for subject in prepared]
        lowered = [model.lower(self.profile) for model in loaded]
        for model, network in zip(loaded, lowered, strict=True):
            toolchain.rehearse(network, model.judge, self._directory)
        toolchain.tune(lowered, on_progress=lambda done, total: None)
        artifacts = [
            toolchain.compile(network, self._directory / f"{number}.so")
            for number, network in enumerate(lowered)
        ]
        try:
            futures = [
                toolchain.farm.submit(partial(self._measure, toolchain, model.judge, artifact))
                for model, artifact in zip(loaded, artifacts, strict=True)
            ]
            return [future.result() for future in futures]
        finally:
            for artifact in artifacts:
                artifact.path.unlink(missing_ok=True)

    def close(self) -> None:
        """End every process that was started for this device; what was tuned stays in the records."""
        self._closed = True
        self._toolchain = None
        self._stack.close()

    def __enter__(self) -> Device:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _opened(self) -> Toolchain:
        if self._closed:
            raise DeviceError(
                f"device {self.profile.key!r} was closed; open it again with Device.open"
            )
        if self._toolchain is None:
            self._toolchain, self._directory = self._stack.enter_context(
                open_scratch_toolchain(
                    self.profile,
                    self._options,
                    on_warning=self._on_warning,
                )
            )
        return self._toolchain

    def _prepare(self, network: Network, shape: Shape | None) -> ModelRef | LoadedModel:
        """Find out what is wrong with the arguments before anything is started."""
        if isinstance(network, str | Path):
            return resolve_model(str(network), input_shape=shape)
        if hasattr(network, "notation"):
            candidate: Candidate = network  # type: ignore[assignment]
            return ModelRef(name=candidate.notation, architecture=candidate)
        from torch import nn

        if not isinstance(network, nn.Module):
            raise ConfigError(
                f"cannot time {type(network).__name__}: it is a torch.nn.Module, an Architecture, a notation or "
                f"an .onnx file"
            )
        if shape is None or len(shape) != 4 or min(shape) < 1:
            raise ConfigError(
                f"a torch module is timed for one input shape (N,C,H,W), and it is {shape}; "
                f"for example device.latency(module, (1, 3, 224, 224))"
            )
        # A copy: the caller may train this module on, and predictions need it in eval mode.
        return LoadedModel.of_module(copy.deepcopy(network).cpu().eval(), shape)

    def _load(self, subject: ModelRef | LoadedModel) -> LoadedModel:
        if isinstance(subject, LoadedModel):
            return subject
        loaded = subject.load(seed=self._options.seed)
        if loaded.assumed is not None:
            self._on_warning(f"{subject.name}: {loaded.assumed}")
        return loaded

    def _measure(self, toolchain: Toolchain, judge: Judge, artifact: CompiledArtifact) -> Latency:
        toolchain.check_network(artifact, judge, seed=self._options.seed)
        return toolchain.measure(artifact)
