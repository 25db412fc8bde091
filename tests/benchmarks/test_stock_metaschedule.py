"""The comparison with stock MetaSchedule: which kernels, how they are timed, what is shown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tvm_mnas.devices.farm import runner
from tvm_mnas.evaluation.toolchain import ToolchainOptions

Script = Callable[[str], ModuleType]


def kernel(name: str, flops: int) -> Any:
    return SimpleNamespace(name=name, flops=flops)


def test_the_costliest_kernel_that_fits_is_taken(script: Script) -> None:
    stock = script("stock_metaschedule")
    names = [
        ("conv2d_add_relu_conv2d_add 1x3x224x224 3x3x3x32 3x3x1x32", 9),
        ("conv2d_add_relu 1x56x56x24 1x1x24x72", 5),
        ("conv2d_add_relu 1x56x56x24 1x1x24x144", 7),
        ("conv2d_add 1x56x56x72 1x1x72x24", 8),
    ]
    picked = stock.pick_kernels(
        [kernel(*one) for one in names], ["stem-and-separable", "pointwise-56"]
    )
    assert [one.flops for one in picked.values()] == [9, 7]
    with pytest.raises(SystemExit, match="no kernel fits inverted-112"):
        stock.pick_kernels([kernel(*one) for one in names], ["inverted-112"])


def test_mnasnet_b1_has_a_kernel_for_every_label(script: Script) -> None:
    from tvm_mnas.compiler.lowering.lower import lower_network

    networks, stock = script("networks"), script("stock_metaschedule")
    lowered = lower_network(
        networks.settled_network("mnasnet-b1"),
        (1, 3, 224, 224),
        '{"kind": "llvm", "num-cores": 1}',
    )
    picked = stock.pick_kernels(lowered.kernels, list(stock.KERNELS))
    assert len({one.key for one in picked.values()}) == len(stock.KERNELS)


def test_both_sides_are_timed_in_every_round(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    stock = script("stock_metaschedule")
    order: list[str] = []

    def measure(farm: Any, path: Path, arguments: Any, **_: Any) -> list[float] | str:
        order.append(path.name)
        # The machine gets slower and slower, and theirs takes twice as long as ours.
        return [len(order) * {"stock": 2e-6, "ours": 1e-6}[path.name]] * 3

    monkeypatch.setattr(runner, "measure_kernel", measure)
    libraries = [stock.Library(Path(name), []) for name in ("stock", "ours")]
    theirs, ours = stock.time_in_turn(SimpleNamespace(farm=None), libraries, rounds=9, seed=0)
    assert all(set(order[at : at + 2]) == {"stock", "ours"} for at in range(0, 18, 2))
    assert theirs / ours == pytest.approx(2, rel=0.15)
    monkeypatch.setattr(runner, "measure_kernel", lambda *a, **b: "crash: signal 11")
    with pytest.raises(SystemExit, match="signal 11"):
        stock.time_in_turn(SimpleNamespace(farm=None), libraries, rounds=1, seed=0)


def test_ours_begins_without_the_records_that_ship(
    script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Opened(Exception):
        pass

    def open_toolchain(profile: Any, options: ToolchainOptions, **_: Any) -> None:
        raise Opened(options)

    monkeypatch.setattr("tvm_mnas.evaluation.toolchain.open_toolchain", open_toolchain)
    with pytest.raises(Opened) as caught:
        script("stock_metaschedule").run_ours({}, tmp_path / "ours", trials=1, seed=0)
    (options,) = caught.value.args
    assert not options.with_shipped


def test_the_table_has_rates_and_geometric_means(script: Script) -> None:
    stock = script("stock_metaschedule")
    one = stock.Comparison(
        seed=4,
        stock=stock.Side(10, 20.0, {}),
        ours=stock.Side(10, 2.0, {}),
        times_us={"stem-and-separable": (100.0, 50.0), "pointwise-56": (400.0, 200.0)},
    )
    lines = stock.table([one]).splitlines()
    assert lines[2] == "| 4 | 0.50 | 5.00 | 10.0 | 200.0 | 100.0 | 2.00 |"
    assert lines[-2:] == [
        "| stem-and-separable | 100.0 | 50.0 | 2.00 |",
        "| pointwise-56 | 400.0 | 200.0 | 2.00 |",
    ]


def test_a_stock_process_that_dies_says_so(
    script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stock = script("stock_metaschedule")
    path = tmp_path / "dies.py"
    path.write_text("import sys; sys.exit('no space left')")
    monkeypatch.setattr(stock, "__file__", str(path))
    with pytest.raises(SystemExit, match="ended with 1: no space left"):
        stock.run_stock({}, "{}", tmp_path / "stock", trials=1, seed=0)
