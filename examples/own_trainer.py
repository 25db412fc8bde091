"""A trainer of one's own: `tvm-mnas search --trainer examples/own_trainer.py:train`, or run this file."""

import torch
from torch import nn

from tvm_mnas import Accuracy, TrainTask, run_search

QUICK = {"trials": 2, "batch": 2, "train_steps": 20, "final_steps": 20, "schedules_per_kernel": 2}


def train(task: TrainTask, report) -> Accuracy:
    """Train by plain SGD and return the share of validation images that the network gets right."""
    network = task.build()
    splits = task.splits()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    batches = splits.train.train_batches(batch_size=64, steps=task.steps, seed=task.seed)
    for step, (images, labels) in enumerate(batches):
        loss = nn.functional.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        report(step + 1)
    network.eval()
    right = 0
    with torch.inference_mode():
        for images, labels in splits.validation.eval_batches(batch_size=64):
            right += int((network(images).argmax(dim=1) == labels).sum())
    samples = len(splits.validation)
    return task.finish(network, top1=right / samples, samples=samples)


if __name__ == "__main__":
    result = run_search(trainer=train, **QUICK)
    for point in result.pareto_front:
        print(f"{point.accuracy:.1%} {point.latency_ms:.4g} ms  {point.notation}")
