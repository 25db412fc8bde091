"""The synthetic evaluator: its optimum is the optimum, and its task is a real trade-off."""

from __future__ import annotations

import itertools
import random
import statistics

import pytest

from tvm_mnas.errors import ConfigError, TrainingError
from tvm_mnas.search.reward import Reward
from tvm_mnas.space.space import Decision
from tvm_mnas.testing import SyntheticEvaluator

SMALL = (
    Decision("block1.conv_op", ("conv", "sepconv", "mbconv3")),
    Decision("block1.filters", (16, 24, 32)),
    Decision("block2.conv_op", ("conv", "mbconv6")),
    Decision("block2.kernel_size", (3, 5)),
    Decision("block2.filters", (24, 40)),
    Decision("block3.skip_op", ("none", "identity")),
    Decision("block3.layers", (1, 2, 3)),
    Decision("block3.se_ratio", (0.0, 0.25)),
)


def _all_tokens() -> list[tuple[int, ...]]:
    return list(itertools.product(*(range(len(decision.choices)) for decision in SMALL)))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "reward",
    [Reward.soft(80.0), Reward.hard(80.0), Reward.hard(45.0), Reward(150.0, alpha=-0.5, beta=-2.0)],
    ids=["soft", "hard", "tight", "steep"],
)
def test_the_optimum_is_what_trying_everything_finds(seed: int, reward: Reward) -> None:
    evaluator = SyntheticEvaluator(SMALL, seed=seed)
    rewards = {
        tokens: reward(result.accuracy, result.latency_ms)
        for tokens in _all_tokens()
        for result in [evaluator.evaluate(tokens)]
    }
    optimum = evaluator.optimum(reward)
    assert optimum.reward == max(rewards.values())
    assert rewards[optimum.tokens] == optimum.reward
    assert reward(optimum.accuracy, optimum.latency_ms) == optimum.reward
    # It is a task: most candidates are clearly worse.
    assert statistics.median(rewards.values()) < 0.97 * optimum.reward


def test_the_trade_off_is_real_a_wider_net_is_more_accurate_and_slower() -> None:
    evaluator = SyntheticEvaluator(SMALL, seed=0)
    results = [evaluator.evaluate(tokens) for tokens in _all_tokens()]
    accuracies = [result.accuracy for result in results]
    latencies = [result.latency_ms for result in results]
    assert all(0.0 < accuracy < 0.8 for accuracy in accuracies)
    assert statistics.correlation(accuracies, latencies) > 0.2
    assert statistics.mean(latencies) == pytest.approx(100.0, rel=0.02)
    # Nobody has both the best accuracy and the best latency.
    assert latencies[accuracies.index(max(accuracies))] > min(latencies)


def test_a_block_costs_more_after_a_wider_one() -> None:
    evaluator = SyntheticEvaluator(SMALL, seed=0)

    def latency_of_second_block(width: int) -> float:
        cheap = evaluator.evaluate((0, width, 0, 0, 0, 0, 0, 0)).latency_ms
        dear = evaluator.evaluate((0, width, 0, 1, 0, 0, 0, 0)).latency_ms
        return dear - cheap

    assert latency_of_second_block(2) > 1.5 * latency_of_second_block(0)


def test_it_is_deterministic_and_another_seed_is_another_landscape() -> None:
    tokens = (1, 2, 0, 1, 1, 0, 2, 1)
    first = SyntheticEvaluator(SMALL, seed=3, accuracy_noise=0.01).evaluate(tokens)
    assert first == SyntheticEvaluator(SMALL, seed=3, accuracy_noise=0.01).evaluate(tokens)
    assert first.latency_ms != SyntheticEvaluator(SMALL, seed=4).evaluate(tokens).latency_ms


def test_noise_has_the_deviation_asked_for_and_leaves_latency_and_optimum_alone() -> None:
    quiet = SyntheticEvaluator(SMALL, seed=0)
    noisy = SyntheticEvaluator(SMALL, seed=0, accuracy_noise=0.01)
    differences = [
        noisy.evaluate(tokens).accuracy - quiet.evaluate(tokens).accuracy
        for tokens in _all_tokens()
    ]
    assert statistics.pstdev(differences) == pytest.approx(0.01, rel=0.1)
    assert statistics.mean(differences) == pytest.approx(0.0, abs=0.002)
    assert (
        noisy.evaluate(_all_tokens()[7]).latency_ms == quiet.evaluate(_all_tokens()[7]).latency_ms
    )
    assert noisy.optimum(Reward(80.0)) == quiet.optimum(Reward(80.0))


def test_the_share_of_candidates_asked_for_fails_and_always_the_same_ones() -> None:
    evaluator = SyntheticEvaluator(SMALL, seed=0, failure_rate=0.2)

    def failed() -> list[tuple[int, ...]]:
        found = []
        for tokens in _all_tokens():
            try:
                evaluator.evaluate(tokens)
            except TrainingError:
                found.append(tokens)
        return found

    first = failed()
    assert len(first) / len(_all_tokens()) == pytest.approx(0.2, abs=0.04)
    assert first == failed()


def test_it_takes_decisions_of_any_name() -> None:
    decisions = [Decision("a", (1, 2, 3)), Decision("b", ("x", "y")), Decision("c", (0.0, 0.5))]
    evaluator = SyntheticEvaluator(decisions, seed=0, typical_latency_ms=5.0)
    optimum = evaluator.optimum(Reward(4.0))
    assert evaluator.evaluate(optimum.tokens).accuracy == optimum.accuracy
    rng = random.Random(0)
    sample = [evaluator.evaluate([rng.randrange(2) for _ in decisions]) for _ in range(10)]
    assert all(result.latency_ms > 0.0 for result in sample)


@pytest.mark.parametrize("tokens", [(), (0,) * 7, (0,) * 9, (3, 0, 0, 0, 0, 0, 0, 0), (-1,) * 8])
def test_tokens_of_another_space_are_refused(tokens: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="tokens"):
        SyntheticEvaluator(SMALL).evaluate(tokens)


@pytest.mark.parametrize(
    "wrong", [{"failure_rate": 1.5}, {"accuracy_noise": -1.0}, {"typical_latency_ms": 0.0}]
)
def test_impossible_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        SyntheticEvaluator(SMALL, **wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError):
        SyntheticEvaluator(())
