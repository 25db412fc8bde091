"""Any candidate of a search as a torch module, and what it costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from tvm_mnas.errors import ConfigError, LoweringError, raise_if_foreign
from tvm_mnas.models.cost import Cost, count_cost, count_module
from tvm_mnas.models.network import build_network
from tvm_mnas.plugins import load_object
from tvm_mnas.space.architecture import Architecture
from tvm_mnas.space.detector import DetectorArchitecture
from tvm_mnas.space.network_space import ChosenNetwork

if TYPE_CHECKING:
    from tvm_mnas.space.candidate import Candidate


def build_candidate(
    candidate: Candidate,
    *,
    seed: int,
    dropout: float = 0.0,
    batch_norm_momentum: float = 0.01,
    zero_init_residual: bool = False,
) -> nn.Module:
    """Return the network of `candidate`, its weights drawn from `seed`; torch's generator stays as it was.

    The other settings are those of `build_network`; a builder of one's own decides them itself.

    Raises:
        ConfigError: if the builder of a `ChosenNetwork` cannot be imported.
        LoweringError: if that builder fails, or returns something that is no module.
    """
    if isinstance(candidate, Architecture):
        return build_network(
            candidate,
            dropout=dropout,
            seed=seed,
            batch_norm_momentum=batch_norm_momentum,
            zero_init_residual=zero_init_residual,
        )
    if isinstance(candidate, DetectorArchitecture):
        from tvm_mnas.models.zoo.ssdlite import build_ssdlite

        return build_ssdlite(
            candidate.backbone,
            seed=seed,
            classes=candidate.classes + 1,
            batch_norm_momentum=batch_norm_momentum,
            zero_init_residual=zero_init_residual,
        )
    if not isinstance(candidate, ChosenNetwork):
        raise ConfigError(
            f"a candidate is an Architecture, a DetectorArchitecture or a ChosenNetwork: {candidate!r}"
        )
    builder = load_object(candidate.builder)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            network: object = builder(dict(candidate.choices))
        except Exception as error:
            raise_if_foreign(error)
            raise LoweringError(
                f"the builder {candidate.builder} failed for {dict(candidate.choices)}: "
                f"{type(error).__name__}: {error}"
            ) from error
    if not isinstance(network, nn.Module):
        raise LoweringError(
            f"the builder {candidate.builder} returned {type(network).__name__}: it returns a torch.nn.Module"
        )
    return network


def candidate_cost(candidate: Candidate, network: nn.Module) -> Cost:
    """Return parameters and mult-adds of `candidate`, whose network is `network`."""
    if isinstance(candidate, Architecture):
        return count_cost(candidate)
    return count_module(network, candidate.image_shape)
