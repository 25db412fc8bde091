"""The virtual clock, and that a simulated search obeys the arithmetic of small ones."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import optuna
import pytest

Script = Callable[[str], ModuleType]


@pytest.fixture(autouse=True)
def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def test_events_come_in_the_order_of_their_times(script: Script) -> None:
    clock = script("cluster_simulation").Clock()
    heard: list[tuple[str, float]] = []
    for name, delay_s in (("last", 3.0), ("first", 1.0), ("second", 1.0)):
        clock.after(delay_s, lambda name=name: heard.append((name, clock.now_s)))
    for _ in range(3):
        clock.advance()
    assert heard == [("first", 1.0), ("second", 1.0), ("last", 3.0)]


def test_workers_do_the_urgent_first_and_as_many_as_they_are_at_once(script: Script) -> None:
    module = script("cluster_simulation")
    clock = module.Clock()
    workers = module.VirtualWorkers(clock, 1)
    ended: list[tuple[str, float]] = []

    def job(name: str) -> Callable[[], Callable[[], None]]:
        def work() -> Callable[[], None]:
            clock.spend(2.0)
            return lambda: ended.append((name, clock.now_s))

        return work

    for priority, name in ((1, "at once"), (1, "later"), (0, "urgent")):
        workers.put(priority, job(name))
    for _ in range(3):
        clock.advance()
    assert ended == [("at once", 2.0), ("urgent", 4.0), ("later", 6.0)]
    assert workers.busy_s == 6.0


def test_one_accelerator_that_never_rests_takes_the_sum_of_its_trainings(script: Script) -> None:
    module = script("cluster_simulation")
    cluster = module.Cluster(1, 1, training_s=600.0, device_s=1.0, kernel_s=0.1, spread=0.0)
    found = module.simulate(cluster, trials=40, batch=4, lag=1)
    assert found.accelerators == pytest.approx(1.0, abs=0.01)
    assert found.makespan_s == pytest.approx(40 * 600, rel=0.15)
    assert found.bottleneck == "accelerators"


def test_lag_and_overlap_leave_accelerators_less_rest_than_lock_step(script: Script) -> None:
    module = script("cluster_simulation")
    cluster = module.Cluster(8, 1, training_s=60.0)
    how = {"trials": 96, "batch": 16}
    lock_step = module.simulate(cluster, **how, lag=0, lock_step=True)
    waits = module.simulate(cluster, **how, lag=0)
    lags = module.simulate(cluster, **how, lag=2)
    assert lock_step.accelerators < waits.accelerators < lags.accelerators
    assert lock_step.makespan_s > waits.makespan_s > lags.makespan_s


def test_too_few_devices_are_the_bottleneck(script: Script) -> None:
    module = script("cluster_simulation")
    how = {"trials": 96, "batch": 16, "lag": 2}
    times = {"training_s": 30.0, "device_s": 20.0, "kernel_s": 0.1}
    one = module.simulate(module.Cluster(16, 1, **times), **how)
    four = module.simulate(module.Cluster(16, 4, **times), **how)
    assert one.bottleneck == "devices" and one.devices > 0.8
    assert one.makespan_s >= 96 * 20
    slow_tuner = module.simulate(module.Cluster(16, 4, **times | {"kernel_s": 9.0}), **how)
    assert slow_tuner.bottleneck == "compiler"
    assert four.makespan_s < 0.5 * one.makespan_s


def test_what_is_lost_is_trained_again(script: Script) -> None:
    module = script("cluster_simulation")
    found = module.simulate(module.Cluster(4, 1, lost=0.3), trials=32, batch=8, lag=1)
    whole = module.simulate(module.Cluster(4, 1), trials=32, batch=8, lag=1)
    assert found.lost > 0 and whole.lost == 0
    assert found.makespan_s > whole.makespan_s


@pytest.mark.parametrize("algorithm", ["ppo", "evolution"])
def test_it_runs_the_real_samplers(script: Script, algorithm: str) -> None:
    module = script("cluster_simulation")
    found = module.simulate(
        module.Cluster(4, 1, training_s=60.0), trials=32, batch=8, lag=1, algorithm=algorithm
    )
    assert 0 < found.accelerators <= 1
