"""What a training ends with: what `tvm-mnas export` writes, of the trained network."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from tvm_mnas.config import SearchConfig
from tvm_mnas.devices.core.profile import load_profile
from tvm_mnas.evaluation.manifest import Manifest, Origin
from tvm_mnas.evaluation.toolchain import ToolchainOptions, open_toolchain
from tvm_mnas.search.export import export_network
from tvm_mnas.workflows.training.full import TrainingObserver
from tvm_mnas.workflows.training.request import WEIGHTS, read_request


def export_training(
    out: Path,
    *,
    device: str,
    records: str,
    schedules_per_kernel: int,
    observer: TrainingObserver,
    origin: Origin | None = None,
) -> Manifest:
    """Tune, compile, check and measure the network trained in `out`, into its `export/`; return the manifest.

    `origin` is the search that found the network, if one did. An export of before is replaced: it was of other weights.

    Raises:
        RunError: if the training is not done.
        CandidateError: if the network cannot be compiled or measured.
        DeviceError: if the device stays lost.
    """
    request = read_request(out)
    logs = out / "logs"
    logs.mkdir(exist_ok=True)
    config = SearchConfig(
        data=request.data,
        max_bad_images=request.max_bad_images,
        seed=request.seed,
        device=device,
        records=records,
    )
    options = ToolchainOptions(
        records=Path(records), schedules_per_kernel=schedules_per_kernel, seed=request.seed
    )
    target = out / "export"
    shutil.rmtree(target, ignore_errors=True)
    with (
        tempfile.TemporaryDirectory() as scratch,
        open_toolchain(
            load_profile(device),
            options,
            logs=logs,
            scratch=Path(scratch),
            on_warning=observer.note,
        ) as toolchain,
    ):
        return export_network(
            out / WEIGHTS,
            target,
            config=config,
            toolchain=toolchain,
            origin=origin
            or Origin(
                run=out.name,
                trial=None,
                trials=None,
                search_reward=None,
                search_accuracy=None,
                algorithm=None,
                seed=request.seed,
            ),
            observer=observer,
        )
