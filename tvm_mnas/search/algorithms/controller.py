"""The controller: a recurrent network that proposes tokens, each given those before it.

An LSTM in the manner of Zoph and Le (2017): the input of step d is the embedding of the token
chosen at step d - 1, and each decision has a softmax head of its own, with as many outputs as it
has choices. The heads start at zero, so that an untrained controller proposes every architecture
with equal probability.

Everything is double precision and runs on one thread: the policy that a study is replayed with must
be the policy that it was sampled with.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from tvm_mnas.errors import ConfigError


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread inside the block, so that sums have one order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Controller(nn.Module):
    """A policy over token sequences of D decisions, where decision d has `choices[d]` tokens.

    Shapes: B sequences, D decisions, C choices of the decision that has most, H = `hidden_size`.
    `seed` fixes the initial weights; torch's global generator is left alone.
    """

    def __init__(self, choices: Sequence[int], *, hidden_size: int = 64, seed: int) -> None:
        super().__init__()
        if not choices or min(choices) < 1:
            raise ConfigError(
                f"each decision of a controller must have one or more choices, not {choices}"
            )
        self.choices = tuple(choices)
        most = max(choices)
        # Row 0 is the input of the first step; then come the tokens of decision 0, of decision 1,
        # ...
        offsets = list(itertools.accumulate(choices, initial=1))[:-1]
        self._offsets = torch.tensor(offsets, dtype=torch.long)  # (D)
        impossible = torch.arange(most)[None, :] >= torch.tensor(choices)[:, None]
        self._impossible = impossible  # (D, C)
        with torch.random.fork_rng(devices=[]):
            self.embedding = nn.Embedding(1 + sum(choices), hidden_size, dtype=torch.float64)
            self.lstm = nn.LSTM(hidden_size, hidden_size, batch_first=True, dtype=torch.float64)
        self.head_weight = nn.Parameter(
            torch.zeros(len(choices), hidden_size, most, dtype=torch.float64)
        )
        self.head_bias = nn.Parameter(torch.zeros(len(choices), most, dtype=torch.float64))
        generator = torch.Generator().manual_seed(seed)
        for parameter in (*self.embedding.parameters(), *self.lstm.parameters()):
            nn.init.uniform_(parameter, -0.1, 0.1, generator=generator)

    def sample(self, rng: random.Random) -> tuple[int, ...]:
        """Return the tokens of one sequence, a function of the weights and of what `rng` yields.

        One sequence at a time and one number of `rng` per decision: what is sampled beside it
        cannot matter.
        """
        (tokens,) = self.sample_hot([rng], [1.0])
        return tokens

    def sample_hot(
        self, rngs: Sequence[random.Random], temperatures: Sequence[float]
    ) -> list[tuple[int, ...]]:
        """Return the tokens of a sequence for each of `rngs`, as `sample` does, all at once.

        The logits of a sequence are divided by its temperature: above 1, unlikely tokens are likelier.
        """
        sequences: list[list[int]] = [[] for _ in rngs]
        heat = torch.tensor(temperatures, dtype=torch.float64)[:, None]  # (B, 1)
        previous = torch.zeros(len(rngs), 1, dtype=torch.long)
        state: tuple[Tensor, Tensor] | None = None
        with torch.no_grad(), one_thread():
            for decision, count in enumerate(self.choices):
                hidden, state = self.lstm(self.embedding(previous), state)
                logits = hidden[:, 0] @ self.head_weight[decision] + self.head_bias[decision]
                probabilities = torch.softmax(logits[:, :count] / heat, dim=1).tolist()
                for tokens, rng, row in zip(sequences, rngs, probabilities, strict=True):
                    tokens.append(_inverse_cdf(row, rng.random()))
                last = torch.tensor([tokens[-1] for tokens in sequences])
                previous = (self._offsets[decision] + last)[:, None]
        return [tuple(tokens) for tokens in sequences]

    def log_probabilities(self, tokens: Tensor) -> Tensor:
        """Return the log-probability of every choice given the tokens before it.

        `tokens` is (B, D), the result (B, D, C): minus infinity past a decision's own choices.
        """
        inputs = torch.cat(
            [torch.zeros_like(tokens[:, :1]), (tokens + self._offsets)[:, :-1]], dim=1
        )
        hidden, _ = self.lstm(self.embedding(inputs))
        logits = torch.einsum("bdh,dhc->bdc", hidden, self.head_weight) + self.head_bias
        return torch.log_softmax(logits.masked_fill(self._impossible, -torch.inf), dim=-1)

    def log_prob_and_entropy(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log-probability of each token and the entropy of its softmax, in nats.

        `tokens` is (B, D) of integers; both results are (B, D). A sequence's log-probability is the
        sum over D.
        """
        log_probabilities = self.log_probabilities(tokens)
        chosen = log_probabilities.gather(-1, tokens[..., None])[..., 0]
        # exp(-inf) * -inf is NaN, and so is its gradient: the impossible choices are set aside
        # first.
        possible = log_probabilities.masked_fill(self._impossible, 0.0)
        weights = log_probabilities.exp()
        return chosen, -(weights * possible).sum(dim=-1)


def _inverse_cdf(probabilities: Sequence[float], uniform: float) -> int:
    """Return the token whose share of [0, 1) holds `uniform`; rounding falls to the last token."""
    total = 0.0
    for token, probability in enumerate(probabilities):
        total += probability
        if uniform < total:
            return token
    return len(probabilities) - 1
