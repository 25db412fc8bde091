"""Is a proxy of yours as good as latency? Search a table with it, where the best is known, and see what it picks."""

from collections.abc import Callable
from statistics import fmean, median

import optuna

from tvm_mnas import PPOSampler, Reward, TableEntry, distributions_of, find_table, read_table

TABLE = read_table(find_table("fashion-mini"))
DECISIONS = TABLE.space.decisions
REWARD = Reward.hard(target_latency_ms=median(map(TABLE.entry_ms, TABLE.entries)))


def worth(entry: TableEntry) -> float:
    """Return the reward of all that is known: long trainings, measured latency."""
    return REWARD(fmean(one.top1 for one in entry.accuracies[960]), TABLE.entry_ms(entry))


def regret(proxy: Callable[[TableEntry], float], seed: int, trials: int = 80) -> float:
    """Return how far the pick of a search that is told `proxy`, not the latency, is from the best."""
    scale = sum(map(TABLE.entry_ms, TABLE.entries)) / sum(map(proxy, TABLE.entries))
    sampler = PPOSampler(DECISIONS, reward=REWARD, seed=seed, batch_size=8)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    found = []
    for _ in range(trials):
        trial = study.ask(dict(distributions_of(DECISIONS)))
        tokens = [one.choices.index(trial.params[one.name]) for one in DECISIONS]
        entry = TABLE.entry(TABLE.space.decode(tokens))  # trained and timed, long ago
        accuracy, told_ms = entry.accuracies[240][seed % 2].top1, scale * proxy(entry)
        study.tell(trial, (accuracy, told_ms))
        found.append((REWARD(accuracy, told_ms), worth(entry)))
    return 1 - max(found)[1] / max(map(worth, TABLE.entries))


if __name__ == "__main__":
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    for name, proxy in (("latency", TABLE.entry_ms), ("mult-adds", lambda one: one.mult_adds)):
        print(f"{name}: {fmean(regret(proxy, seed) for seed in range(5)):.1%} from the best")
