"""Non-maximum suppression three ways on the same boxes and scores: ours, TVM's operator, ONNX Runtime's.

    python benchmarks/suppression.py [--rounds 30]

Boxes are anchors that are moved a little, scores are drawn: SSDLite's 2,034 anchors at 320 pixels and SSD512's 24,564,
80 classes each. One thread, in turn; medians in microseconds, and what each is of ours. TVM's operator goes through all
boxes above the threshold of each class, as its ONNX namesake does; ours through the 1,000 best.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable

os.environ["TVM_NUM_THREADS"] = "1"

import numpy as np
import onnx
import torch
import tvm
from numpy.typing import NDArray
from onnx import TensorProto, helper
from tvm import relax

from tvm_mnas.compiler.core.target import load_target
from tvm_mnas.compiler.lowering.suppression import KERNEL, suppression_kernel
from tvm_mnas.devices.core.profile import load_profile
from tvm_mnas.models.detection.anchors import boxes_of, ssd_maps, ssdlite_maps
from tvm_mnas.models.detection.coding import corners
from tvm_mnas.models.detection.suppression import SuppressionRule

CLASSES = 80
RULE = SuppressionRule()
THRESHOLDS = (0.001, 0.05)
EDGES = (20.48, 51.2, 133.12, 215.04, 296.96, 378.88, 460.8, 542.72)
DETECTORS = {
    "SSDLite at 320": ssdlite_maps((20, 10, 5, 3, 2, 1)),
    "SSD512": ssd_maps(512, (64, 32, 16, 8, 4, 2, 1), EDGES),
}
Array = NDArray[np.float32]


def ours(boxes: Array, scores: Array, threshold: float) -> Callable[[], object]:
    """Return a run of our kernel."""
    rule = SuppressionRule(score_threshold=threshold)
    _, anchors, classes = scores.shape
    kernel = suppression_kernel(1, anchors, classes, rule).with_attr("global_symbol", KERNEL)
    library = tvm.compile(tvm.IRModule({KERNEL: kernel}), target=target())
    rows = tvm.runtime.tensor(np.zeros((1, rule.total, 6), np.float32))
    arguments = [tvm.runtime.tensor(boxes), tvm.runtime.tensor(scores), rows]
    return lambda: library[KERNEL](*arguments)


def of_tvm(boxes: Array, scores: Array, threshold: float) -> Callable[[], object]:
    """Return a run of relax.vision.all_class_non_max_suppression, which takes scores (N,C,A)."""
    builder = relax.BlockBuilder()
    by_class = np.ascontiguousarray(scores.transpose(0, 2, 1))
    inputs = [
        relax.Var(name, relax.TensorType(one.shape, "float32"))
        for name, one in (("boxes", boxes), ("scores", by_class))
    ]
    numbers = [
        relax.const(np.array(value))
        for value in (
            np.int64(RULE.per_class),
            np.float32(RULE.overlap_threshold),
            np.float32(threshold),
        )
    ]
    with builder.function("main", inputs):
        found = builder.emit(
            relax.op.vision.all_class_non_max_suppression(*inputs, *numbers, output_format="onnx")
        )
        builder.emit_func_output(found)
    executable = tvm.compile(relax.transform.LegalizeOps()(builder.get()), target=target())
    machine = relax.VirtualMachine(executable, tvm.cpu())
    arguments = [tvm.runtime.tensor(boxes), tvm.runtime.tensor(by_class)]
    return lambda: machine["main"](*arguments)


def of_onnx_runtime(boxes: Array, scores: Array, threshold: float) -> Callable[[], object]:
    """Return a run of ONNX's NonMaxSuppression."""
    import onnxruntime

    by_class = np.ascontiguousarray(scores.transpose(0, 2, 1))
    constants = {
        "most": np.array([RULE.per_class], np.int64),
        "overlap": np.array([RULE.overlap_threshold], np.float32),
        "score": np.array([threshold], np.float32),
    }
    graph = helper.make_graph(
        [helper.make_node("NonMaxSuppression", ["boxes", "scores", *constants], ["found"])],
        "suppression",
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, one.shape)
            for name, one in (("boxes", boxes), ("scores", by_class))
        ],
        [helper.make_tensor_value_info("found", TensorProto.INT64, ["n", 3])],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    feed = {"boxes": boxes, "scores": by_class}
    return lambda: session.run(None, feed)


def target() -> object:
    """The host's target."""
    return load_target(load_profile("local").target)


def predicted(maps: object, seed: int = 0) -> tuple[Array, Array]:
    """Return boxes near their anchors, and scores of which most are low."""
    anchors = boxes_of(maps)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(seed)
    moved = anchors * (1 + torch.randn(anchors.shape, generator=generator) / 20)
    scores = torch.sigmoid(torch.randn(len(anchors), CLASSES, generator=generator) * 1.5 - 5)
    return corners(moved).clamp(0, 1)[None].numpy(), scores[None].numpy()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    rounds = parser.parse_args().rounds
    core = json.loads(load_profile("local").target)["mcpu"]
    print(f"{core}; one thread; medians of {rounds} rounds in turn, in microseconds")
    print(
        f"{'detector':16} {'threshold':>9} {'ours':>8} {'TVM':>10} {'x ours':>7} {'ONNX Runtime':>13} {'x ours':>7}"
    )
    for name, maps in DETECTORS.items():
        boxes, scores = predicted(maps)
        for threshold in THRESHOLDS:
            runs = [make(boxes, scores, threshold) for make in (ours, of_tvm, of_onnx_runtime)]
            times: list[list[float]] = [[] for _ in runs]
            for run in runs:
                run()
            for _ in range(rounds):
                for run, taken in zip(runs, times, strict=True):
                    began = time.perf_counter()
                    run()
                    taken.append(1e6 * (time.perf_counter() - began))
            own, tvms, onnxs = (statistics.median(taken) for taken in times)
            print(
                f"{name:16} {threshold:9} {own:8.0f} {tvms:10.0f} {tvms / own:7.1f} {onnxs:13.0f} {onnxs / own:7.1f}"
            )


if __name__ == "__main__":
    main()
