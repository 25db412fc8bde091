"""Use the paper's controller in an Optuna study of your own: any objective, any decisions.

    python examples/own_study.py

Here the objective is a formula with a known optimum (`tvm_mnas.testing`) over the paper's space, so that one sees
how near the search comes; put your own accuracy and latency in its place.
"""

from __future__ import annotations

import optuna

from tvm_mnas.search.reward import Reward
from tvm_mnas.search.sampler import PPOSampler, distributions_of, tokens_of
from tvm_mnas.space.files import load_space
from tvm_mnas.testing import SyntheticEvaluator

TRIALS = 512
BATCH = 16


def main() -> None:
    space = load_space("mnasnet")
    reward = Reward.soft(target_latency_ms=80.0)
    evaluator = SyntheticEvaluator(space.decisions, seed=0)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        directions=["maximize", "minimize"],
        sampler=PPOSampler(space.decisions, reward=reward, seed=0, batch_size=BATCH),
    )
    for _ in range(TRIALS // BATCH):
        batch = [
            study.ask(fixed_distributions=dict(distributions_of(space.decisions)))
            for _ in range(BATCH)
        ]
        for trial in batch:
            tokens = tokens_of(study.trials[trial.number], space.decisions)
            assert tokens is not None
            result = evaluator.evaluate(tokens)
            study.tell(trial, (result.accuracy, result.latency_ms))
    rewards = [reward(*trial.values) for trial in study.trials]
    best = study.trials[rewards.index(max(rewards))]
    tokens = tokens_of(best, space.decisions)
    assert tokens is not None
    optimum = evaluator.optimum(reward).reward
    print(f"best of {TRIALS}: reward {max(rewards):.4f}, the optimum is {optimum:.4f}")
    print(f"accuracy {best.values[0]:.2%}, latency {best.values[1]:.1f} ms (both by formula)")
    print(space.decode(tokens).notation)


if __name__ == "__main__":
    main()
