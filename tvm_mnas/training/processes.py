"""Several processes that train one network, as torchrun starts them: what each sees, and what they agree on.

    torchrun --nproc-per-node 2 -m tvm_mnas train ...

Each takes its part of every batch; gradients and the statistics of batch norms are those of the whole batch, so that
the result is that of one process, but for rounding.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from tvm_mnas.errors import ConfigError
from tvm_mnas.training.data.splits import Batch


@dataclass(frozen=True, slots=True)
class ProcessGroup:
    """This process's number `rank` among `size` that train together."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def check(self, batch_size: int) -> None:
        """Refuse a batch that cannot be shared evenly.

        Raises:
            ConfigError: if it has a rest.
        """
        if batch_size % self.size:
            even = max(self.size, batch_size - batch_size % self.size)
            raise ConfigError(
                f"{self.size} processes share each batch evenly, but it has {batch_size} images; add, for example, "
                f"--set batch_size={even}"
            )

    def wait(self) -> None:
        """Return when every process has come here."""
        if self.size > 1:
            dist.barrier()

    def share(self, batch: Batch) -> Batch:
        """Return this process's part of a whole batch."""
        if self.size == 1:
            return batch
        images, labels = batch
        return images[self.rank :: self.size], labels[self.rank :: self.size]

    def mean(self, loss: Tensor) -> float:
        """Return the mean of a loss over all processes."""
        if self.size == 1:
            return float(loss.detach())
        total = loss.detach().clone()
        dist.all_reduce(total)
        return float(total) / self.size

    def synchronized(self, network: nn.Module) -> nn.Module:
        """Return `network` with batch norms that see the whole batch."""
        return network if self.size == 1 else _synchronized(network)

    def parallel(self, network: nn.Module, device: str) -> Callable[[Tensor], Tensor]:
        """Return what computes `network` and averages its gradients over all processes."""
        if self.size == 1:
            return network
        ids = [torch.device(device)] if device.startswith("cuda") else None
        # Running statistics are equal everywhere already.
        return DistributedDataParallel(network, device_ids=ids, forward_sync_buffers=False)


SINGLE = ProcessGroup()


def join_processes() -> ProcessGroup:
    """Return the group that torchrun made this process a part of, or one of this process alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return SINGLE
    if not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return ProcessGroup(dist.get_rank(), dist.get_world_size())


def leave_processes(group: ProcessGroup) -> None:
    """End what `join_processes` began."""
    if group.size > 1:
        dist.destroy_process_group()


class _SumOverProcesses(torch.autograd.Function):
    """The sum over all processes; what each gets back is the sum of what each passes back."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


class _SynchronizedBatchNorm(nn.BatchNorm2d):
    """Batch norm over the batches of all processes; torch.nn.SyncBatchNorm does so on accelerators alone."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        axes = [0, 2, 3]
        count = input.numel() / input.shape[1] * dist.get_world_size()
        sums: Any = _SumOverProcesses.apply(  # type: ignore[no-untyped-call]
            torch.stack([input.sum(axes), (input * input).sum(axes)])
        )
        mean = sums[0] / count
        variance = sums[1] / count - mean * mean
        with torch.no_grad():
            assert self.running_mean is not None and self.running_var is not None
            assert self.momentum is not None and self.num_batches_tracked is not None
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
            self.num_batches_tracked += 1
        scale = self.weight * torch.rsqrt(variance + self.eps)
        shift = self.bias - mean * scale
        normalized: Tensor = input * scale[:, None, None] + shift[:, None, None]
        return normalized


def _synchronized(network: nn.Module) -> nn.Module:
    if torch.cuda.is_available():
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call, no-any-return]
    for module in network.modules():
        for name, child in list(module.named_children()):
            if type(child) is nn.BatchNorm2d:
                twin = _SynchronizedBatchNorm(
                    child.num_features, eps=child.eps, momentum=child.momentum
                )
                twin.load_state_dict(child.state_dict())
                setattr(module, name, twin)
    return network
