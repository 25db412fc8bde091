"""An Optuna study of your own, with measured latency as an objective and the paper's controller as its sampler."""

import optuna
import torch
from torch import nn

from tvm_mnas import Decision, Device, PPOSampler, Reward, distributions_of

DECISIONS = (Decision("width", (8, 16, 32)), Decision("kernel", (3, 5)), Decision("depth", (1, 2)))
SAMPLER = PPOSampler(DECISIONS, reward=Reward.soft(target_latency_ms=0.05), seed=0, batch_size=2)


def build(width: int, kernel: int, depth: int) -> nn.Module:
    """Return a small network: images (N,3,32,32) -> logits (N,10)."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, width, 3, stride=2, padding=1), nn.ReLU()]
    for _ in range(depth):
        layers += [nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


def accuracy(network: nn.Module) -> float:
    """Stand in for your own training: more parameters are better here."""
    parameters = sum(values.numel() for values in network.parameters())
    return parameters / (parameters + 2000)


def main() -> None:
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=SAMPLER)
    with Device.open("local", schedules_per_kernel=2) as device:
        for _ in range(4):
            trial = study.ask(dict(distributions_of(DECISIONS)))
            network = build(**trial.params)
            latency = device.latency(network, (1, 3, 32, 32))
            study.tell(trial, (accuracy(network), latency.latency_ms))
            print(f"{trial.params}: {latency.latency_ms:.4g} ms on {latency.device_key}")


if __name__ == "__main__":
    main()
