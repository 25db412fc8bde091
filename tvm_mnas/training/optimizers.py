"""Optimizers of recipes: torch's where torch has them, and RMSProp as TensorFlow computes it, which torch has not."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from tvm_mnas.training.recipe import Recipe


class TensorFlowRMSProp(Optimizer):
    """RMSProp as published with MnasNet (tensorflow/tpu, mnasnet_utils.build_optimizer).

        s <- decay s + (1 - decay) g^2          s starts at one
        m <- momentum m + rate g / sqrt(s + epsilon)
        w <- w - m

    torch.optim.RMSprop starts s at zero, adds epsilon outside of the root, and multiplies by the rate after the
    momentum. `weight_decay` adds w times it to the gradient, as a loss of half the sum of squares does.
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float,
        decay: float = 0.9,
        momentum: float = 0.9,
        epsilon: float = 1e-3,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {
            "lr": lr,
            "decay": decay,
            "momentum": momentum,
            "epsilon": epsilon,
            "weight_decay": weight_decay,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Change every weight by its gradient."""
        assert closure is None
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if not weights:
                continue
            gradients: Any = [weight.grad for weight in weights]
            squares, momenta = [], []
            for weight in weights:
                state = self.state[weight]
                if not state:
                    state["square"] = torch.ones_like(weight, memory_format=torch.preserve_format)
                    state["momentum"] = torch.zeros_like(
                        weight, memory_format=torch.preserve_format
                    )
                squares.append(state["square"])
                momenta.append(state["momentum"])
            if group["weight_decay"]:
                gradients = torch._foreach_add(gradients, weights, alpha=group["weight_decay"])
            torch._foreach_mul_(squares, group["decay"])
            torch._foreach_addcmul_(squares, gradients, gradients, value=1 - group["decay"])
            roots = torch._foreach_add(squares, group["epsilon"])
            torch._foreach_sqrt_(roots)
            torch._foreach_mul_(momenta, group["momentum"])
            torch._foreach_addcdiv_(momenta, gradients, roots, value=group["lr"])
            torch._foreach_sub_(weights, momenta)


def build_optimizer(network: nn.Module, recipe: Recipe) -> Optimizer:
    """Return the optimizer of `recipe` for the weights of `network`; its rate is set at each step."""
    groups = parameter_groups(network, recipe.weight_decay, decay_biases=recipe.decay_biases)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=0.0, fused=True)
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=0.0, momentum=recipe.momentum)
    return TensorFlowRMSProp(
        groups, lr=0.0, decay=recipe.rms_decay, momentum=recipe.momentum, epsilon=recipe.epsilon
    )


def parameter_groups(
    network: nn.Module, weight_decay: float, *, decay_biases: bool = False
) -> list[dict[str, Any]]:
    """Return optimizer groups in which weights decay; batch norms do not, and biases only if `decay_biases`."""
    norms = {
        id(parameter)
        for module in network.modules()
        if isinstance(module, _BatchNorm)
        for parameter in module.parameters(recurse=False)
    }

    def decays(parameter: Tensor) -> bool:
        return id(parameter) not in norms and (decay_biases or parameter.ndim > 1)

    parameters = list(network.parameters())
    return [
        {"params": [one for one in parameters if decays(one)], "weight_decay": weight_decay},
        {"params": [one for one in parameters if not decays(one)], "weight_decay": 0.0},
    ]
