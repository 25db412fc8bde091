"""Networks of repeated cells: one cell builder for NASNet-A, AmoebaNet-A, PNASNet-5 and DARTS in their mobile sizes.

Padding is symmetric, where TensorFlow pads one row more below and to the right; shapes and counts are equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tvm_mnas.models.zoo.building import Classifier, conv, norm, seeded
from tvm_mnas.models.zoo.genotypes import (
    AMOEBANET_A_NORMAL,
    AMOEBANET_A_REDUCTION,
    DARTS_V1_NORMAL,
    DARTS_V1_REDUCTION,
    DARTS_V2_NORMAL,
    DARTS_V2_REDUCTION,
    NASNET_A_NORMAL,
    NASNET_A_REDUCTION,
    PNASNET_5,
    CellOp,
    Genotype,
)

_KERNELS = {CellOp.SEP_3: 3, CellOp.SEP_5: 5, CellOp.SEP_7: 7}


@dataclass(frozen=True, slots=True)
class _State:
    """Channels of a tensor, and its height and width."""

    channels: int
    size: int


@dataclass(frozen=True, slots=True)
class _CellPlan:
    """A cell to build: what it computes, on how many channels, with which stride."""

    genotype: Genotype
    filters: int
    stride: int = 1


class FactorizedReduction(nn.Module):
    """Halve the size: two 1x1 convolutions with stride 2, the second a pixel further: (N,C,H,W) -> (N,K,H/2,W/2).

    Each half has a batch norm of its own, which is the same function as one of both and folds.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        half = outputs // 2
        self.first = nn.Sequential(conv(inputs, half, stride=2), norm(half))
        self.shift = nn.ZeroPad2d((-1, 1, -1, 1))
        self.second = nn.Sequential(conv(inputs, outputs - half, stride=2), norm(outputs - half))

    def forward(self, features: Tensor) -> Tensor:
        """Return both halves side by side."""
        active = self.relu(features)
        return torch.cat([self.first(active), self.second(self.shift(active))], 1)


class Cell(nn.Module):
    """One cell of a genotype: two states (N,C,H,W) -> (N,filters * outputs,H/stride,W/stride).

    Both states get `filters` channels first. Where `projects` is false the older one is left as it is if it has the
    shape of the newer one, or in the very first cell, where both are the stem's output.
    """

    def __init__(
        self, plan: _CellPlan, newest: _State, older: _State, *, projects: bool, first: bool
    ) -> None:
        super().__init__()
        filters = plan.filters
        self.genotype = plan.genotype
        self.newest = _projection(newest.channels, filters)
        channels = [filters, filters]
        self.older: nn.Module
        if older.size != newest.size:
            self.older = FactorizedReduction(older.channels, filters)
        elif projects or (not first and older.channels != filters):
            self.older = _projection(older.channels, filters)
        else:
            self.older = nn.Identity()
            channels[1] = older.channels
        channels += [filters] * len(self.genotype.steps)
        operations = []
        for left_op, left, right_op, right in self.genotype.steps:
            for op, index in ((left_op, left), (right_op, right)):
                stride = plan.stride if index < 2 else 1
                operations.append(_operation(op, channels[index], filters, stride))
        self.operations = nn.ModuleList(operations)
        self.state = _State(
            sum(channels[index] for index in self.genotype.outputs),
            -(-newest.size // plan.stride),
        )

    def forward(self, newest: Tensor, older: Tensor) -> Tensor:
        """Return the cell's output for the outputs of the cell before it and of the one before that."""
        states = [self.newest(newest), self.older(older)]
        for step, (_, left, _, right) in enumerate(self.genotype.steps):
            first, second = self.operations[2 * step], self.operations[2 * step + 1]
            states.append(first(states[left]) + second(states[right]))
        return torch.cat([states[index] for index in self.genotype.outputs], 1)


class CellNetwork(nn.Module):
    """Stem, cells, classifier: (N,3,S,S) -> (N,classes). Every cell sees the outputs of the two before it."""

    def __init__(
        self,
        stem: nn.Module,
        second: nn.Module,
        stem_states: tuple[_State, _State],
        plans: Sequence[_CellPlan],
        *,
        projects: bool,
        classes: int,
    ) -> None:
        super().__init__()
        self.stem = stem
        self.second = second
        older, newest = stem_states
        cells = []
        for index, plan in enumerate(plans):
            cell = Cell(plan, newest, older, projects=projects, first=index == 0)
            older, newest = newest, cell.state
            cells.append(cell)
        self.cells = nn.ModuleList(cells)
        # What DARTS lacks: there the last cell goes into the mean as it is.
        self.relu = nn.Identity() if projects else nn.ReLU()
        self.classifier = Classifier(newest.channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N,classes) for `images` (N,3,S,S)."""
        older = self.stem(images)
        newest = self.second(older)
        for cell in self.cells:
            older, newest = newest, cell(newest, older)
        logits: Tensor = self.classifier(self.relu(newest))
        return logits


def build_nasnet_a(*, seed: int, classes: int = 1000) -> nn.Module:
    """Return NASNet-A (4 @ 1056): (N,3,224,224) -> (N,classes)."""
    plans = _with_reductions(NASNET_A_NORMAL, NASNET_A_REDUCTION, filters=44)
    return _build(plans, seed, classes)


def build_amoebanet_a(*, seed: int, classes: int = 1000) -> nn.Module:
    """Return AmoebaNet-A with N=4 and F=50: (N,3,224,224) -> (N,classes)."""
    plans = _with_reductions(AMOEBANET_A_NORMAL, AMOEBANET_A_REDUCTION, filters=50)
    return _build(plans, seed, classes)


def build_pnasnet(*, seed: int, classes: int = 1000) -> nn.Module:
    """Return PNASNet-5 with N=3 and F=54: (N,3,224,224) -> (N,classes). Its reductions are normal cells with stride."""
    filters = 54
    plans = _stem_plans(PNASNET_5, filters)
    for index in range(9):
        reduces = index in (3, 6)
        plans.append(_CellPlan(PNASNET_5, filters << index // 3, 2 if reduces else 1))
    return _build(plans, seed, classes)


def build_darts_v1(*, seed: int, classes: int = 1000) -> nn.Module:
    """Return DARTS as of June 2018, 50 channels: (N,3,224,224) -> (N,classes)."""
    return _build_darts(DARTS_V1_NORMAL, DARTS_V1_REDUCTION, 50, seed, classes)


def build_darts_v2(*, seed: int, classes: int = 1000) -> nn.Module:
    """Return DARTS as of October 2018, 48 channels: (N,3,224,224) -> (N,classes)."""
    return _build_darts(DARTS_V2_NORMAL, DARTS_V2_REDUCTION, 48, seed, classes)


def _build_darts(
    normal: Genotype, reduction: Genotype, channels: int, seed: int, classes: int
) -> nn.Module:
    layers = 14
    thirds = (layers // 3, 2 * layers // 3)
    plans = []
    for index in range(layers):
        reduces = index in thirds
        filters = channels << sum(index >= third for third in thirds)
        plans.append(_CellPlan(reduction if reduces else normal, filters, 2 if reduces else 1))

    def make() -> nn.Module:
        stem = nn.Sequential(
            conv(3, channels // 2, 3, stride=2),
            norm(channels // 2),
            nn.ReLU(),
            conv(channels // 2, channels, 3, stride=2),
            norm(channels),
        )
        second = nn.Sequential(nn.ReLU(), conv(channels, channels, 3, stride=2), norm(channels))
        states = (_State(channels, 56), _State(channels, 28))
        return CellNetwork(stem, second, states, plans, projects=True, classes=classes)

    return seeded(make, seed)


def _build(plans: Sequence[_CellPlan], seed: int, classes: int) -> nn.Module:
    stem_filters = 32

    def make() -> nn.Module:
        stem = nn.Sequential(conv(3, stem_filters, 3, stride=2, padded=False), norm(stem_filters))
        state = _State(stem_filters, 111)
        return CellNetwork(
            stem, nn.Identity(), (state, state), plans, projects=False, classes=classes
        )

    return seeded(make, seed)


def _stem_plans(genotype: Genotype, filters: int) -> list[_CellPlan]:
    """Return the two cells that take the stem's 111x111 to 28x28."""
    return [_CellPlan(genotype, filters // 4, 2), _CellPlan(genotype, filters // 2, 2)]


def _with_reductions(normal: Genotype, reduction: Genotype, *, filters: int) -> list[_CellPlan]:
    """Return three runs of four normal cells, a reduction cell before the second and the third."""
    plans = _stem_plans(reduction, filters)
    for stage in range(3):
        if stage > 0:
            plans.append(_CellPlan(reduction, filters << stage, 2))
        plans += [_CellPlan(normal, filters << stage)] * 4
    return plans


def _projection(inputs: int, outputs: int, *, stride: int = 1) -> nn.Module:
    return nn.Sequential(nn.ReLU(), conv(inputs, outputs, stride=stride), norm(outputs))


def _operation(op: CellOp, inputs: int, outputs: int, stride: int) -> nn.Module:
    if op is CellOp.THIN_7:
        return _thin(inputs, outputs, stride)
    if op is CellOp.DILATED_3:
        depthwise = conv(inputs, inputs, 3, stride=stride, groups=inputs, dilation=2)
        return nn.Sequential(nn.ReLU(), depthwise, conv(inputs, outputs), norm(outputs))
    if op in _KERNELS:
        return nn.Sequential(
            *_separable(inputs, outputs, _KERNELS[op], stride),
            *_separable(outputs, outputs, _KERNELS[op], 1),
        )
    if op in (CellOp.AVG_POOL, CellOp.MAX_POOL):
        pool = (
            nn.AvgPool2d(3, stride=stride, padding=1, count_include_pad=False)
            if op is CellOp.AVG_POOL
            else nn.MaxPool2d(3, stride=stride, padding=1)
        )
        if inputs == outputs:
            return pool
        return nn.Sequential(pool, conv(inputs, outputs), norm(outputs))
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    if op is CellOp.SKIP:
        return FactorizedReduction(inputs, outputs)
    return _projection(inputs, outputs, stride=stride)


def _separable(inputs: int, outputs: int, kernel: int, stride: int) -> tuple[nn.Module, ...]:
    return (
        nn.ReLU(),
        conv(inputs, inputs, kernel, stride=stride, groups=inputs),
        conv(inputs, outputs),
        norm(outputs),
    )


def _thin(inputs: int, outputs: int, stride: int) -> nn.Module:
    width = outputs // 4
    wide, tall = conv(width, width, (1, 7)), conv(width, width, (7, 1))
    wide.stride, tall.stride = (1, stride), (stride, 1)
    return nn.Sequential(
        *(nn.ReLU(), conv(inputs, width), norm(width)),
        *(nn.ReLU(), wide, norm(width)),
        *(nn.ReLU(), tall, norm(width)),
        *(nn.ReLU(), conv(width, outputs), norm(outputs)),
    )
