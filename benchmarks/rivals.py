"""Our exported network against the inference engines that people would use instead, in one run.

    python benchmarks/rivals.py                                   # MnasNet-B1, MobileNetV2, MnasNet-A1 at 224
    python benchmarks/rivals.py --records tuning_logs --schedules-per-kernel 64 --networks mnasnet-b1

Float32, one thread, one core: each contender is a warm process of its own, bound to the same core and set to
one thread, and only one of them runs at a time. In each round everyone runs for a moment, in an order that is
drawn anew, so that heat, clocks and neighbours meet all alike; a ratio is that within a round. What a contender
computes is compared with torch's output before it is timed. Several settings are tried for a rival; the best
one counts, which is in the rival's favour. A rival that is not installed is said to be so:
`pip install "tvm-mnas[bench]"` brings them. Ours is tuned first, if its records are not there.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from networks import NOTATIONS, settled_network

OURS = "tvm-mnas"
AGREEMENT = 1e-3
"""The largest difference from torch's output, relative to its largest magnitude: engines sum in other orders."""
WARM_UP = 3
ROOT = Path(__file__).resolve().parents[1]

Prepared = tuple[Callable[[], Any], Callable[[], Any]]
"""One inference, which is what is timed; and the output (N,classes) of the last one."""


# ---------------------------------------------------------------- the contenders, each in a process of its own


def prepare_ours(directory: Path, setting: str, image: Any) -> Prepared:
    import tvm
    from tvm.runtime.vm import VirtualMachine

    machine = VirtualMachine(tvm.runtime.load_module(str(directory / "net.so")), tvm.cpu())
    machine.set_input("main", tvm.runtime.tensor(image, tvm.cpu()))
    return (
        lambda: machine.invoke_stateful("main"),
        lambda: machine.get_outputs("main").numpy(),
    )


def prepare_onnxruntime(directory: Path, setting: str, image: Any) -> Prepared:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    # "all" has the blocked layout (NCHWc) that Microsoft's kernels like, "extended" has fusion alone.
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = {
        "all": levels.ORT_ENABLE_ALL,
        "extended": levels.ORT_ENABLE_EXTENDED,
    }[setting]
    session = onnxruntime.InferenceSession(
        str(directory / "net.onnx"), options, providers=["CPUExecutionProvider"]
    )
    # Input and output stay in place: a call copies nothing and allocates nothing.
    binding = session.io_binding()
    output = onnxruntime.OrtValue.ortvalue_from_shape_and_type(
        session.get_outputs()[0].shape, image.dtype, "cpu"
    )
    binding.bind_ortvalue_input("images", onnxruntime.OrtValue.ortvalue_from_numpy(image))
    binding.bind_ortvalue_output("logits", output)
    return lambda: session.run_with_iobinding(binding), output.numpy


def prepare_openvino(directory: Path, setting: str, image: Any) -> Prepared:
    import openvino

    # Float32 in so many words: where the core has bfloat16, OpenVINO would take that.
    properties = {
        "PERFORMANCE_HINT": setting.upper(),
        "INFERENCE_NUM_THREADS": 1,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "f32",
        "ENABLE_CPU_PINNING": False,
    }
    core = openvino.Core()
    compiled = core.compile_model(str(directory / "net.onnx"), "CPU", properties)
    request = compiled.create_infer_request()
    request.set_input_tensor(openvino.Tensor(image))
    return request.infer, lambda: request.get_output_tensor().data


def prepare_torch(directory: Path, setting: str, image: Any) -> Prepared:
    import torch

    from tvm_mnas.models.folding import fold_batch_norm

    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    network: Any = fold_batch_norm(_network(directory))
    images = torch.from_numpy(image)
    if "channels-last" in setting:
        network = network.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    if "frozen" in setting:
        with torch.no_grad():
            network = torch.jit.freeze(torch.jit.trace(network, images))  # type: ignore[no-untyped-call]
            network = torch.jit.optimize_for_inference(network)
    outputs: list[Any] = []

    def infer() -> None:
        with torch.inference_mode():
            outputs[:] = [network(images)]

    return infer, lambda: outputs[0].numpy()


def prepare_executorch(directory: Path, setting: str, image: Any) -> Prepared:
    import executorch.extension.pybindings.portable_lib as runtime
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    images = torch.from_numpy(image)
    program = torch.export.export(_network(directory), (images,))
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    # Else it has a thread for each core of the machine. A module keeps the pool that it was loaded with.
    runtime._unsafe_reset_threadpool(1)
    # A file: a program in memory is not kept alive by the module that runs it.
    path = directory / "net.pte"
    path.write_bytes(lowered.to_executorch().buffer)
    module = runtime._load_for_executorch(str(path))
    outputs: list[Any] = []

    def infer() -> None:
        outputs[:] = module.forward((images,))

    return infer, lambda: outputs[0].numpy()


@dataclass(frozen=True, slots=True)
class Engine:
    """An inference engine: the package that brings it, how it is prepared, and the settings to try."""

    package: str
    prepare: Callable[[Path, str, Any], Prepared]
    settings: tuple[str, ...]


ENGINES: Mapping[str, Engine] = {
    OURS: Engine("tvm", prepare_ours, ("tuned",)),
    "ONNX Runtime": Engine("onnxruntime", prepare_onnxruntime, ("all", "extended")),
    "OpenVINO": Engine("openvino", prepare_openvino, ("latency", "throughput")),
    "PyTorch": Engine(
        "torch",
        prepare_torch,
        ("fused", "fused channels-last", "frozen", "frozen channels-last"),
    ),
    "ExecuTorch XNNPACK": Engine("executorch", prepare_executorch, ("default",)),
}


def _network(directory: Path) -> Any:
    return settled_network((directory / "network").read_text())


def contend(engine: str, setting: str, directory: Path, core: int, reply: Any) -> int:
    """Prepare, report the output's difference from torch's, then time for as long as each line read says."""
    # Before the engine counts the cores that it may use.
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})
    import numpy as np

    package = ENGINES[engine].package
    if importlib.util.find_spec(package) is None:
        _say(reply, {"error": "not installed"})
        return 1
    try:
        infer, output = ENGINES[engine].prepare(
            directory, setting, np.load(directory / "image.npy")
        )
        infer()
        expected = np.load(directory / "expected.npy")
        found = np.asarray(output()).reshape(expected.shape)
        difference = float(np.abs(found - expected).max() / np.abs(expected).max())
    except Exception as error:
        # Whatever an engine cannot do, the others are still worth comparing.
        _say(reply, {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"})
        return 1
    _say(reply, {"version": _version(package), "difference": difference})
    for line in sys.stdin:
        for _ in range(WARM_UP):
            infer()
        samples_s: list[float] = []
        end = time.perf_counter() + float(line)
        while not samples_s or time.perf_counter() < end:
            started = time.perf_counter()
            infer()
            samples_s.append(time.perf_counter() - started)
        _say(
            reply,
            {"median_ms": statistics.median(samples_s) * 1e3, "best_ms": min(samples_s) * 1e3},
        )
    return 0


def _say(reply: Any, values: Mapping[str, Any]) -> None:
    reply.write(json.dumps(values) + "\n")
    reply.flush()


def _version(package: str) -> str:
    from importlib import metadata

    name = "apache-tvm" if package == "tvm" else package
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version(name)
    return "unknown"


# ---------------------------------------------------------------- the comparison


@dataclass(frozen=True, slots=True)
class Row:
    """What one contender took in each round, in milliseconds, and how far its output is from torch's."""

    engine: str
    setting: str
    version: str
    difference: float
    medians_ms: tuple[float, ...]
    best_ms: float

    @property
    def median_ms(self) -> float:
        """The median of the rounds' medians."""
        return statistics.median(self.medians_ms)

    @property
    def spread(self) -> float:
        """The interquartile range of the rounds' medians divided by their median."""
        if len(self.medians_ms) < 2:
            return 0.0
        first, _, third = statistics.quantiles(self.medians_ms, n=4, method="inclusive")
        return (third - first) / self.median_ms

    def ratio_to(self, other: Row) -> float:
        """Return the median over the rounds of this one's time divided by the other's in the same round."""
        pairs = zip(self.medians_ms, other.medians_ms, strict=True)
        return statistics.median(mine / theirs for mine, theirs in pairs)


class Contender:
    """A process that holds one engine in one setting, warm."""

    def __init__(self, engine: str, setting: str, directory: Path, core: int, python: str) -> None:
        """Start it; `ready` waits for it."""
        self.engine, self.setting = engine, setting
        self.error: str | None = None
        self.version = ""
        self.difference = 0.0
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONHOME"}
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TVM_NUM_THREADS"):
            environment[name] = "1"
        # TVM would move its thread to the fastest core, whatever it is bound to.
        environment["TVM_BIND_THREADS"] = "0"
        environment["PYTHONPATH"] = str(ROOT)
        self._log = (directory / f"{engine}-{setting}.log".replace(" ", "-")).open("w+")
        self.process = subprocess.Popen(
            [python, __file__, "--contend", engine, setting, str(directory), str(core)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=environment,
        )

    def ready(self) -> None:
        """Wait until it has answered once; `error` says why it cannot take part."""
        values = self._answer()
        self.error = values.get("error")
        if self.error is None:
            self.version, self.difference = values["version"], values["difference"]
            if not self.difference <= AGREEMENT:
                self.error = f"wrong output: {self.difference:.2g} from torch's"

    def burst(self, duration_s: float) -> tuple[float, float]:
        """Run for `duration_s`; return the median and the best time of one inference in milliseconds."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{duration_s}\n")
        self.process.stdin.flush()
        values = self._answer()
        if "error" in values:
            raise RuntimeError(f"{self.engine} ({self.setting}) ended: {values['error']}")
        return values["median_ms"], values["best_ms"]

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.communicate()
        self._log.close()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line:
            values: dict[str, Any] = json.loads(line)
            return values
        self._log.seek(0)
        lines = self._log.read().strip().splitlines() or ["no message"]
        return {"error": f"died with {self.process.wait()}: {lines[-1][:200]}"}


def compare(
    contenders: Sequence[Contender], *, rounds: int, burst_s: float, seed: int
) -> list[Row]:
    """Time those that are ready in `rounds` rounds of one burst each, in an order drawn from `seed`."""
    generator = random.Random(seed)
    times: dict[int, list[tuple[float, float]]] = {id(one): [] for one in contenders}
    for _ in range(rounds):
        for one in generator.sample(list(contenders), len(contenders)):
            times[id(one)].append(one.burst(burst_s))
    return [
        Row(
            one.engine,
            one.setting,
            one.version,
            one.difference,
            tuple(median for median, _ in times[id(one)]),
            min(best for _, best in times[id(one)]),
        )
        for one in contenders
    ]


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a markdown table, the fastest engine first; bold: the setting of each that counts."""
    ours = next(row for row in rows if row.engine == OURS)
    counted: dict[str, Row] = {}
    for row in sorted(rows, key=lambda row: row.ratio_to(ours)):
        counted.setdefault(row.engine, row)
    lines = [
        "| engine | setting | median ms | best ms | spread | x ours | difference |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in sorted(
        rows, key=lambda row: (counted[row.engine].ratio_to(ours), row.ratio_to(ours))
    ):
        bold = "**" if counted[row.engine] is row else ""
        lines.append(
            f"| {bold}{row.engine}{bold} {row.version} | {row.setting} | {row.median_ms:.3f} | "
            f"{row.best_ms:.3f} | {row.spread:.1%} | {bold}{row.ratio_to(ours):.3f}{bold} | "
            f"{row.difference:.0e} |"
        )
    return "\n".join(lines)


@contextlib.contextmanager
def prepared(name: str, *, records: Path, schedules_per_kernel: int) -> Iterator[Path]:
    """Yield a directory with the network `name` as every contender needs it, ours tuned and compiled."""
    import numpy as np

    from tvm_mnas.devices.core.profile import load_profile
    from tvm_mnas.evaluation.toolchain import ToolchainOptions, open_toolchain
    from tvm_mnas.models.inference import export_onnx, predict

    with tempfile.TemporaryDirectory(prefix="rivals-") as text:
        directory = Path(text)
        network = settled_network(name)
        size = network.architecture.input_size
        shape = (1, network.architecture.input_channels, size, size)
        image = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
        (directory / "network").write_text(name)
        np.save(directory / "image.npy", image)
        np.save(directory / "expected.npy", predict(network, image))
        export_onnx(network, shape, directory / "net.onnx")
        with open_toolchain(
            load_profile("local"),
            ToolchainOptions(
                records=records,
                schedules_per_kernel=schedules_per_kernel,
                seed=0,
            ),
            logs=directory,
            scratch=directory,
        ) as toolchain:
            lowered = toolchain.lower(network, shape)
            missing = len(toolchain.missing(lowered))
            started = time.perf_counter()
            toolchain.tune([lowered], on_progress=lambda done, total: None)
            artifact = toolchain.compile(lowered, directory / "net.so")
        print(
            f"{name}: {artifact.kernels} kernels, {artifact.schedules} schedules measured, "
            f"{missing} kernels tuned now in {time.perf_counter() - started:.0f} s"
        )
        yield directory


def run(name: str, arguments: argparse.Namespace) -> list[Row]:
    """Compare all contenders on the network `name`, and print what was run."""
    core = max(os.sched_getaffinity(0))
    with (
        prepared(
            name,
            records=Path(arguments.records),
            schedules_per_kernel=arguments.schedules_per_kernel,
        ) as directory,
        contextlib.ExitStack() as processes,
    ):
        contenders = []
        for engine, what in ENGINES.items():
            for setting in what.settings:
                python = sys.executable if engine == OURS else arguments.rival_python
                one = Contender(engine, setting, directory, core, python)
                processes.callback(one.close)
                one.ready()
                if one.error is None:
                    contenders.append(one)
                else:
                    print(f"{engine} ({setting}): {one.error}")
        if not any(one.engine == OURS for one in contenders):
            raise SystemExit("ours did not run: there is nothing to compare with")
        return compare(contenders, rounds=arguments.rounds, burst_s=arguments.burst_s, seed=0)


def main() -> int:
    """Run the benchmark and print its tables; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--networks", default=",".join(NOTATIONS))
    parser.add_argument("--records", default="tuning_logs", help="where tuning records are kept")
    parser.add_argument("--schedules-per-kernel", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--burst-s", type=float, default=0.3)
    parser.add_argument(
        "--rival-python", default=sys.executable, help="an interpreter that has the rivals"
    )
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    arguments = parser.parse_args()
    for name in arguments.networks.split(","):
        if name not in NOTATIONS:
            parser.error(f"a network is one of {', '.join(NOTATIONS)}, not {name!r}")
        print(
            f"\n{name} at 224, batch 1, float32, one thread; {arguments.rounds} rounds of ", end=""
        )
        print(f"{arguments.burst_s:g} s each, in a new order every round", flush=True)
        rows = run(name, arguments)
        if arguments.json:
            fields = ("engine", "setting", "version", "difference", "medians_ms", "best_ms")
            print(json.dumps([{key: getattr(row, key) for key in fields} for row in rows]))
        else:
            print(f"\n{table(rows)}")
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--contend"]:
        # Engines print to standard output as they like; replies go where it led before.
        replies = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        sys.exit(contend(sys.argv[2], sys.argv[3], Path(sys.argv[4]), int(sys.argv[5]), replies))
    sys.exit(main())
