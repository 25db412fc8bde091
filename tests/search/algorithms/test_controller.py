"""The controller: sampling and batched probabilities agree, distributions are distributions."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter

import pytest
import torch

from tvm_mnas.errors import ConfigError
from tvm_mnas.search.algorithms.controller import Controller

CHOICES = (4, 2, 3)


@pytest.fixture
def controller() -> Controller:
    controller = Controller(CHOICES, hidden_size=8, seed=3)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in controller.parameters():
            parameter.normal_(0.0, 1.0, generator=generator)
    return controller


def _every_sequence() -> torch.Tensor:
    return torch.tensor(list(itertools.product(*map(range, CHOICES))))


def test_the_probabilities_of_all_sequences_sum_to_one(controller: Controller) -> None:
    log_prob, _ = controller.log_prob_and_entropy(_every_sequence())
    assert log_prob.shape == (24, 3)
    assert log_prob.sum(dim=1).exp().sum().item() == pytest.approx(1.0, abs=1e-12)


def test_an_untrained_controller_proposes_everything_alike() -> None:
    log_prob, entropy = Controller(CHOICES, seed=0).log_prob_and_entropy(_every_sequence())
    assert torch.allclose(
        log_prob.sum(dim=1), torch.full((24,), -math.log(24), dtype=torch.float64)
    )
    expected = torch.tensor([math.log(count) for count in CHOICES], dtype=torch.float64)
    assert torch.allclose(entropy, expected.expand(24, 3))


def test_samples_come_as_often_as_the_batched_probabilities_say(controller: Controller) -> None:
    sequences = _every_sequence()
    log_prob, _ = controller.log_prob_and_entropy(sequences)
    expected = log_prob.sum(dim=1).exp().tolist()
    rng = random.Random(0)
    count = 2000
    seen = Counter(controller.sample(rng) for _ in range(count))
    for sequence, probability in zip(sequences.tolist(), expected, strict=True):
        deviation = math.sqrt(probability * (1.0 - probability) / count)
        assert abs(seen[tuple(sequence)] / count - probability) < 4.5 * deviation + 1e-9


def test_the_step_by_step_probability_of_a_sample_is_the_batched_one(
    controller: Controller,
) -> None:
    tokens = controller.sample(random.Random(5))
    state = None
    previous = torch.zeros(1, 1, dtype=torch.long)
    offsets = (1, 1 + 4, 1 + 4 + 2)
    one_by_one = []
    for decision, token in enumerate(tokens):
        hidden, state = controller.lstm(controller.embedding(previous), state)
        logits = hidden[0, 0] @ controller.head_weight[decision] + controller.head_bias[decision]
        one_by_one.append(torch.log_softmax(logits[: CHOICES[decision]], 0)[token])
        previous = torch.tensor([[offsets[decision] + token]])
    log_prob, _ = controller.log_prob_and_entropy(torch.tensor([tokens, (0, 0, 0)]))
    assert torch.allclose(log_prob[0], torch.stack(one_by_one), rtol=0, atol=1e-12)


def test_the_entropy_is_that_of_the_softmax_and_its_gradient_is_finite(
    controller: Controller,
) -> None:
    tokens = _every_sequence()
    log_probabilities = controller.log_probabilities(tokens)
    _, entropy = controller.log_prob_and_entropy(tokens)
    for decision, count in enumerate(CHOICES):
        p = log_probabilities[:, decision, :count].exp()
        assert torch.allclose(entropy[:, decision], -(p * p.log()).sum(dim=1))
        assert bool((log_probabilities[:, decision, count:] == -torch.inf).all())
    entropy.sum().backward()
    assert all(
        bool(torch.isfinite(p.grad).all()) for p in controller.parameters() if p.grad is not None
    )


def test_a_sample_follows_from_the_weights_and_the_generator_alone() -> None:
    before = torch.random.get_rng_state()
    first = Controller(CHOICES, seed=7)
    assert torch.equal(before, torch.random.get_rng_state())
    torch.rand(3)
    again = Controller(CHOICES, seed=7)
    other = Controller(CHOICES, seed=8)
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True)
    )
    assert not torch.equal(first.embedding.weight, other.embedding.weight)
    threads = torch.get_num_threads()
    assert first.sample(random.Random("x")) == again.sample(random.Random("x"))
    assert torch.get_num_threads() == threads


def test_no_decisions_are_refused() -> None:
    with pytest.raises(ConfigError):
        Controller((), seed=0)
    with pytest.raises(ConfigError):
        Controller((3, 0), seed=0)


def test_sequences_sampled_together_are_those_sampled_alone() -> None:
    controller = Controller([3, 2, 4], hidden_size=8, seed=1)
    with torch.no_grad():
        controller.head_weight.normal_(generator=torch.Generator().manual_seed(0))
    together = controller.sample_hot([random.Random(seed) for seed in range(20)], [1.0] * 20)
    assert together == [controller.sample(random.Random(seed)) for seed in range(20)]
    assert len(set(together)) > 3


def test_heat_makes_the_unlikely_likelier() -> None:
    controller = Controller([4], hidden_size=4, seed=0)
    with torch.no_grad():
        controller.head_bias[0, 2] = 3.0
    rngs = [random.Random(seed) for seed in range(400)]
    shares = []
    for temperature in (1.0, 3.0, 1e9):
        drawn = controller.sample_hot(rngs, [temperature] * len(rngs))
        shares.append(sum(tokens == (2,) for tokens in drawn) / len(drawn))
    assert shares[0] > 0.8
    assert shares[0] > shares[1] > shares[2]
    assert shares[2] == pytest.approx(0.25, abs=0.08)
