"""A space of one's own, of ordinary residual blocks: `tvm-mnas search --space examples/own_space.py:RESNETS ...`."""

from torch import nn

from tvm_mnas import NetworkSpace, run_search


class Residual(nn.Module):
    """Two convolutions beside a skip."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        layers = [nn.Conv2d(width, width, kernel, padding=kernel // 2) for _ in range(2)]
        self.branch = nn.Sequential(layers[0], nn.ReLU(), layers[1])

    def forward(self, images):
        return (images + self.branch(images)).relu()


def build(choices) -> nn.Module:
    """Return the network of these choices: images (N,3,32,32) -> logits (N,10)."""
    width = choices["width"]
    blocks = [Residual(width, choices["kernel"]) for _ in range(choices["depth"])]
    stem = nn.Conv2d(3, width, 3, stride=2, padding=1)
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)]
    return nn.Sequential(stem, nn.ReLU(), *blocks, *head)


CHOICES = {"width": (8, 16, 24), "depth": (1, 2, 3), "kernel": (3, 5)}
RESNETS = NetworkSpace("resnets", CHOICES, build, image_shape=(1, 3, 32, 32), classes=10)
QUICK = {"trials": 2, "batch": 2, "train_steps": 20, "final_steps": 20, "schedules_per_kernel": 2}

if __name__ == "__main__":
    result = run_search(RESNETS, target_latency_ms=0.2, **QUICK)
    for point in result.pareto_front:
        print(f"{point.accuracy:.1%} {point.latency_ms:.4g} ms  {point.notation}")
