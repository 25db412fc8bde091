"""The kernel of suppression against torch's, ties included, and what lowering makes of a detector."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import tvm

from tests.compiler.untuned import build_untuned, run_here
from tvm_mnas.compiler.lowering.lower import lower_network
from tvm_mnas.compiler.lowering.suppression import KERNEL, is_scheduled, suppression_kernel
from tvm_mnas.cores.precision import FLOAT32, Precision
from tvm_mnas.evaluation.agreement import compare_detections, torch_judge
from tvm_mnas.models.candidates import build_candidate
from tvm_mnas.models.detection.suppression import SuppressionRule, suppress
from tvm_mnas.space.candidate import parse_candidate

SMALL = "ssdlite+i32_c3_w1:stem8_s22:r1_k3_s22_e3_o8:head16:n2"


def run_kernel(
    boxes: torch.Tensor, scores: torch.Tensor, rule: SuppressionRule, *, logits: bool
) -> np.ndarray:
    kernel = suppression_kernel(*scores.shape, rule, logits=logits).with_attr(
        "global_symbol", KERNEL
    )
    library = tvm.compile(tvm.IRModule({KERNEL: kernel}), target="llvm")
    # What was there before must not matter.
    rows = tvm.runtime.tensor(np.full((len(boxes), rule.total, 6), np.nan, np.float32))
    library[KERNEL](tvm.runtime.tensor(boxes.numpy()), tvm.runtime.tensor(scores.numpy()), rows)
    found: np.ndarray = rows.numpy()
    return found


@pytest.mark.parametrize(
    ("anchors", "classes", "rule"),
    [
        (40, 3, SuppressionRule(score_threshold=0.2, total=20, per_class=5, candidates=60)),
        (40, 3, SuppressionRule(score_threshold=0.2, overlap_threshold=0.3, total=200)),
        (300, 7, SuppressionRule(score_threshold=0.0, candidates=500)),
        (5, 1, SuppressionRule(candidates=1, total=1)),
        (9, 2, SuppressionRule(score_threshold=1.0)),
        # More anchors than candidates: a bound is found first. Two vectors of classes, and a rest.
        (90, 37, SuppressionRule(candidates=50)),
        (90, 16, SuppressionRule(candidates=89, per_class=3)),
    ],
)
@pytest.mark.parametrize("logits", [False, True])
@pytest.mark.parametrize("steps", [4, 1_000_000])
def test_it_computes_what_torch_does(
    anchors: int, classes: int, rule: SuppressionRule, logits: bool, steps: int
) -> None:
    generator = torch.Generator().manual_seed(anchors + steps)
    low = torch.rand(2, anchors, 2, generator=generator)
    boxes = torch.cat([low, low + torch.rand(2, anchors, 2, generator=generator) / 2], 2)
    scores = torch.rand(2, anchors, classes, generator=generator)
    # With few steps many boxes and scores are equal.
    boxes, scores = (torch.round(one * steps) / steps for one in (boxes, scores))
    if logits:
        scores = 12 * scores - 9
    expected = suppress(boxes, scores, rule, logits=logits).numpy()
    found = run_kernel(boxes, scores, rule, logits=logits)
    # A sigmoid is rounded as each likes; nothing else is computed.
    np.testing.assert_allclose(found[..., 4], expected[..., 4], rtol=1e-6 if logits else 0)
    found[..., 4] = expected[..., 4]
    np.testing.assert_array_equal(found, expected)


def test_a_detector_is_compiled_whole_and_its_suppression_is_not_tuned(
    target: str, tmp_path: object
) -> None:
    network = build_candidate(parse_candidate(SMALL), seed=0).eval()
    shape = (1, 3, 32, 32)
    lowered = lower_network(network, shape, target)
    assert not [kernel for kernel in lowered.kernels if KERNEL in kernel.name]
    functions = {v.name_hint: f for v, f in lowered.module.functions_items()}
    assert sum(is_scheduled(one) for one in functions.values()) == 1
    images = np.random.default_rng(0).standard_normal((3, *shape[1:]), dtype=np.float32)
    judge = torch_judge(network, batch_size=1)
    assert judge.rule is not None
    found = run_here(build_untuned(lowered, tmp_path), images)
    agreement = compare_detections((found,), judge.outputs(images), judge.rule, judge=judge.name)
    assert agreement.difference < 1e-5


def test_in_half_precision_suppression_stays_in_float32(target: str) -> None:
    network = build_candidate(parse_candidate(SMALL), seed=0).eval()
    for precision, dtype in ((FLOAT32, "float32"), (Precision("float16", "float32"), "float16")):
        lowered = lower_network(network, (1, 3, 32, 32), target, precision=precision)
        text = lowered.module.script()
        assert f'R.Tensor((1, 100, 6), dtype="{dtype}")' not in text or dtype == "float32"
        assert 'R.Tensor((1, 100, 6), dtype="float32")' in text
