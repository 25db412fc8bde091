"""PPO: objective and update against naive ones, learning, and state that survives the disk."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tvm_mnas.errors import ConfigError, RunError
from tvm_mnas.search.algorithms.controller import Controller
from tvm_mnas.search.algorithms.ppo import PPO, PPOSettings, clipped_objective, read_metadata

CHOICES = (3, 2, 4)
SMALL = PPOSettings(hidden_size=8, epochs=3)


def _batch(seed: int, size: int = 6) -> tuple[list[list[int]], list[float]]:
    rng = random.Random(seed)
    tokens = [[rng.randrange(count) for count in CHOICES] for _ in range(size)]
    return tokens, [rng.random() for _ in tokens]


def test_the_clipped_objective_is_equation_7_token_by_token() -> None:
    generator = torch.Generator().manual_seed(0)
    ratio = torch.rand(5, 3, dtype=torch.float64, generator=generator) * 2.0
    advantage = torch.randn(5, 1, dtype=torch.float64, generator=generator)
    naive = 0.0
    for row in range(5):
        for column in range(3):
            r, a = float(ratio[row, column]), float(advantage[row, 0])
            naive += min(r * a, min(max(r, 0.8), 1.2) * a)
    assert float(clipped_objective(ratio, advantage, 0.2)) == pytest.approx(naive / 15, rel=1e-12)


def test_the_objective_has_no_gradient_where_the_clip_binds() -> None:
    ratio = torch.tensor(
        [[1.5], [1.5], [0.5], [0.5], [1.0]], dtype=torch.float64, requires_grad=True
    )
    advantage = torch.tensor([[1.0], [-1.0], [1.0], [-1.0], [2.0]], dtype=torch.float64)
    clipped_objective(ratio, advantage, 0.2).backward()
    assert ratio.grad is not None
    # Too far in the good direction (1.5 with A > 0, 0.5 with A < 0) is not pushed further.
    assert ratio.grad[:, 0].tolist() == pytest.approx([0.0, -0.2, 0.2, 0.0, 0.4])


def test_the_first_step_follows_the_policy_gradient() -> None:
    """At ratio 1 the gradient is that of A log p: compared with its finite differences."""
    settings = PPOSettings(hidden_size=4, epochs=1, entropy_weight=0.3)
    ppo = PPO(CHOICES, settings=settings, seed=1)
    tokens, rewards = _batch(2)
    reference = Controller(CHOICES, hidden_size=4, seed=1)
    mean = sum(rewards) / len(rewards)
    deviation = math.sqrt(sum((r - mean) ** 2 for r in rewards) / len(rewards))

    def surrogate() -> float:
        with torch.no_grad():
            log_prob, entropy = reference.log_prob_and_entropy(torch.tensor(tokens))
        weighted = sum(
            float(log_prob[row, column]) * (rewards[row] - mean) / deviation
            for row in range(len(tokens))
            for column in range(len(CHOICES))
        )
        return weighted / log_prob.numel() + 0.3 * float(entropy.mean())

    before = ppo.controller.head_bias.detach().clone()
    ppo.update(tokens, rewards)
    moved = ppo.controller.head_bias.detach() - before
    for decision, count in enumerate(CHOICES):
        for token in range(count):
            with torch.no_grad():
                reference.head_bias[decision, token] += 1e-6
                up = surrogate()
                reference.head_bias[decision, token] -= 2e-6
                slope = (up - surrogate()) / 2e-6
                reference.head_bias[decision, token] += 1e-6
            # Adam's first step is the learning rate in the direction of the gradient.
            step = math.copysign(settings.learning_rate, slope) if abs(slope) > 1e-8 else 0.0
            assert float(moved[decision, token]) == pytest.approx(step, rel=1e-3, abs=1e-9)


def test_one_update_equals_a_naive_implementation() -> None:
    settings = PPOSettings(hidden_size=8, epochs=4, learning_rate=0.05)
    ppo = PPO(CHOICES, settings=settings, seed=0)
    tokens, rewards = _batch(1)
    ppo.update(tokens, rewards)

    naive = Controller(CHOICES, hidden_size=8, seed=0)
    optimizer = torch.optim.Adam(naive.parameters(), lr=0.05)
    mean = sum(rewards) / len(rewards)
    deviation = math.sqrt(sum((r - mean) ** 2 for r in rewards) / len(rewards))
    batch = torch.tensor(tokens)
    old = naive.log_prob_and_entropy(batch)[0].detach()
    for _ in range(4):
        log_prob, entropy = naive.log_prob_and_entropy(batch)
        terms = []
        for row, reward in enumerate(rewards):
            advantage = (reward - mean) / deviation
            for column in range(len(CHOICES)):
                ratio = torch.exp(log_prob[row, column] - old[row, column])
                terms.append(
                    torch.minimum(
                        ratio * advantage,
                        torch.clamp(ratio, 1 - settings.clip, 1 + settings.clip) * advantage,
                    )
                )
        loss = -sum(terms) / len(terms) - settings.entropy_weight * entropy.mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(naive.parameters(), settings.gradient_norm)
        optimizer.step()
    for mine, theirs in zip(ppo.controller.parameters(), naive.parameters(), strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-6, atol=1e-9)


def test_the_baseline_is_the_decaying_mean_of_the_batches() -> None:
    ppo = PPO(CHOICES, settings=PPOSettings(hidden_size=8, epochs=1, baseline_decay=0.5), seed=0)
    tokens, _ = _batch(0, size=2)
    first = ppo.update(tokens, [0.2, 0.4])
    second = ppo.update(tokens, [0.8, 1.0])
    assert first is not None
    assert second is not None
    assert first.baseline == pytest.approx(0.3)
    # Weights 0.25 and 0.5, which sum to 0.75: the start is corrected for.
    assert second.baseline == pytest.approx((0.25 * 0.3 + 0.5 * 0.9) / 0.75)


def test_it_learns_a_bandit_whose_arms_depend_on_each_other() -> None:
    """Reward 1 where the second token equals the first modulo 2, and the third is 3."""
    ppo = PPO(CHOICES, settings=PPOSettings(hidden_size=16), seed=0)
    for index in range(60):
        tokens = [ppo.controller.sample(random.Random(f"{index}/{i}")) for i in range(16)]
        ppo.update(tokens, [0.5 * (t[1] == t[0] % 2) + 0.5 * (t[2] == 3) for t in tokens])
    samples = [ppo.controller.sample(random.Random(i)) for i in range(200)]
    right = sum(t[1] == t[0] % 2 and t[2] == 3 for t in samples)
    # At random one in eight is right.
    assert right > 150


def test_a_batch_in_which_all_failed_is_counted_and_changes_nothing_else() -> None:
    ppo = PPO(CHOICES, settings=SMALL, seed=0)
    before = {name: tensor.clone() for name, tensor in ppo.tensors().items()}
    assert ppo.update([], []) is None
    assert ppo.updates_done == 1
    assert all(torch.equal(tensor, before[name]) for name, tensor in ppo.tensors().items())


def test_equal_rewards_teach_nothing() -> None:
    ppo = PPO(CHOICES, settings=PPOSettings(hidden_size=8, entropy_weight=0.0), seed=0)
    tokens, _ = _batch(0)
    report = ppo.update(tokens, [0.7] * len(tokens))
    assert report is not None
    assert report.samples == 6
    assert report.kl == 0.0


@pytest.mark.parametrize("updates", [0, 1, 4])
def test_state_survives_the_disk_bit_for_bit(tmp_path: Path, updates: int) -> None:
    path = tmp_path / "controller.safetensors"
    original = PPO(CHOICES, settings=SMALL, seed=0)
    for index in range(updates):
        original.update(*_batch(index))
    original.save(path, metadata={"note": "kept"})
    assert read_metadata(path) == {"note": "kept", "updates_done": str(updates)}
    copy = PPO(CHOICES, settings=SMALL, seed=99)
    copy.load(path)
    assert copy.updates_done == updates
    for _ in range(2):
        mine, theirs = original.tensors(), copy.tensors()
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
        # What comes next is the same too: nothing that matters was left out.
        original.update(*_batch(50))
        copy.update(*_batch(50))
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "controller.safetensors"
    ppo = PPO(CHOICES, settings=SMALL, seed=0)
    ppo.save(path, metadata={})
    content = path.read_bytes()
    ppo.update(*_batch(0))

    def disk_full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tvm_mnas.files.os.fsync", disk_full)
    with pytest.raises(OSError, match="No space left"):
        ppo.save(path, metadata={})
    assert path.read_bytes() == content
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_what_is_not_a_checkpoint_of_this_controller_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "controller.safetensors"
    ppo = PPO(CHOICES, settings=SMALL, seed=0)
    with pytest.raises(RunError, match=r"controller\.safetensors"):
        ppo.load(path)
    ppo.update(*_batch(0))
    ppo.save(path, metadata={})
    whole = path.read_bytes()
    for torn in (b"", whole[:5], whole[: len(whole) // 2], whole[:-1], b"\x80\x04pickle" * 9):
        path.write_bytes(torn)
        with pytest.raises(RunError):
            ppo.load(path)
    path.write_bytes(whole)
    before = {name: tensor.clone() for name, tensor in ppo.tensors().items()}
    for other in (
        PPO((3, 2), settings=SMALL, seed=0),
        PPO(CHOICES, settings=PPOSettings(), seed=0),
    ):
        with pytest.raises(RunError, match="another"):
            other.load(path)
    save_file({"moments": torch.zeros(3)}, path, metadata={"updates_done": "3"})
    with pytest.raises(RunError):
        ppo.load(path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in ppo.tensors().items())


@pytest.mark.parametrize(
    "wrong",
    [
        {"learning_rate": 0.0},
        {"epochs": 0},
        {"clip": 1.0},
        {"entropy_weight": -0.1},
        {"baseline_decay": 1.0},
        {"gradient_norm": 0.0},
        {"hidden_size": 0},
    ],
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, float]) -> None:
    (name,) = wrong
    with pytest.raises(ConfigError, match=name):
        PPOSettings(**wrong)  # type: ignore[arg-type]
