"""The winner, drawn: every block of an image's way, whose parts of the mult-adds are all; and its kernels."""

from __future__ import annotations

import pytest

from tvm_mnas.evaluation.kernel_times import KernelFacts
from tvm_mnas.report.web.winner import kernel_bars, stages_of
from tvm_mnas.space.architecture import Architecture
from tvm_mnas.space.files import load_space


def test_a_network_is_its_stem_its_blocks_and_its_head() -> None:
    space = load_space("mnasnet-se")
    architecture = space.decode([1] * len(space.decisions))
    stages = stages_of(architecture)
    assert len(stages) == len(architecture.blocks) + 2
    assert sum(stage.mult_adds_percent for stage in stages) == pytest.approx(100.0)
    assert all(stage.mult_adds_percent > 0 for stage in stages)
    sizes = [stage.size for stage in stages[:-1]]
    assert sizes == sorted(sizes, reverse=True)
    assert stages[1].title == "sepconv 5x5"
    assert stages[1].kind == "sepconv"
    assert stages[1].details == ("2 layers", "24 channels", "squeeze-excite 0.25", "skip identity")
    assert "squeeze-excite 0.25" in stages[1].details


def test_an_inverted_bottleneck_tells_its_expansion() -> None:
    text = "i32_c3_w1:stem8_s22:r2_k5_s22_e6_i8_o16:r1_k3_s22_e1_i16_o24:head32:n10"
    stage = stages_of(Architecture.parse(text))[1]
    assert (stage.title, stage.kind) == ("mbconv6 5x5", "mbconv")
    assert stage.details[:2] == ("2 layers", "16 channels")
    only = stages_of(Architecture.parse(text))[2]
    assert only.details == ("1 layer", "24 channels", "stride 2"), (
        "it asks for a skip it cannot have"
    )
    assert stage.size == 8


def test_kernels_come_costliest_first_with_their_shares() -> None:
    def facts(name: str, calls: int, tuned: float, **more: float | None) -> KernelFacts:
        values = {"untuned_us": None, "limit_us": None} | more
        return KernelFacts(name=name, key=name, calls=calls, tuned_us=tuned, **values)

    bars = kernel_bars(
        [facts("a", 1, 10.0, untuned_us=50.0, limit_us=9.0), facts("b", 3, 10.0, limit_us=20.0)]
    )
    assert [(bar.name, bar.share_percent) for bar in bars] == [("b", 75.0), ("a", 25.0)]
    assert bars[1].speed_up == 5.0
    assert bars[0].speed_up is None
    assert [bar.limit_percent for bar in bars] == [100.0, 90.0]
