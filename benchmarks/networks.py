"""The published networks that the other scripts time, in this project's notation, and their counts.

    python benchmarks/networks.py       # the table of counts; ends with 1 if one is not the published network

MobileNetV2 clips its activations at six, and the notation knows plain ReLU only: here it has ReLU, for every
contender. Clipping costs one more operation on an element that is in a register.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tvm_mnas.models.network import Network

NOTATIONS = {
    "mnasnet-b1": (
        "i224_c3_w1:stem32_s22:r1_k3_s11_e1_i32_o16_noskip:r3_k3_s22_e3_i16_o24:r3_k5_s22_e3_i24_o40:"
        "r3_k5_s22_e6_i40_o80:r2_k3_s11_e6_i80_o96:r4_k5_s22_e6_i96_o192:"
        "r1_k3_s11_e6_i192_o320_noskip:head1280:n1000"
    ),
    "mobilenet-v2": (
        "i224_c3_w1:stem32_s22:r1_k3_s11_e1_i32_o16_noskip:r2_k3_s22_e6_i16_o24:r3_k3_s22_e6_i24_o32:"
        "r4_k3_s22_e6_i32_o64:r3_k3_s11_e6_i64_o96:r3_k3_s22_e6_i96_o160:"
        "r1_k3_s11_e6_i160_o320_noskip:head1280:n1000"
    ),
    "mnasnet-a1": (
        "i224_c3_w1:stem32_s22:r1_k3_s11_e1_i32_o16_noskip:r2_k3_s22_e6_i16_o24:"
        "r3_k5_s22_e3_i24_o40_se0.25:r4_k3_s22_e6_i40_o80:r2_k3_s11_e6_i80_o112_se0.25:"
        "r3_k5_s22_e6_i112_o160_se0.25:r1_k3_s11_e6_i160_o320:head1280:n1000"
    ),
}
PARAMETERS = {"mnasnet-b1": 4_383_312, "mobilenet-v2": 3_504_872, "mnasnet-a1": 3_887_038}
"""Of the published networks, counted by those who published them or their weights."""

_SETTLING_STEPS = 4
_SETTLING_IMAGES = 4


def settled_network(name: str, *, seed: int = 0) -> Network:
    """Return the network `name` in eval mode, the same in every process for the same seed.

    With the batch norms as they are drawn the logits are hardly more than the classifier's bias, and any two
    programs would agree on them: so a few batches of noise pass through it first and leave their statistics.
    """
    import torch

    from tvm_mnas.models.network import build_network
    from tvm_mnas.space.architecture import Architecture

    architecture = Architecture.parse(NOTATIONS[name])
    network = build_network(architecture, seed=seed, batch_norm_momentum=0.5, dropout=0.0)
    generator = torch.Generator().manual_seed(seed)
    size, channels = architecture.input_size, architecture.input_channels
    with torch.no_grad():
        for _ in range(_SETTLING_STEPS):
            network(torch.randn((_SETTLING_IMAGES, channels, size, size), generator=generator))
    return network.eval()


def main() -> int:
    """Print the table; return the exit code."""
    from tvm_mnas.models.cost import count_cost
    from tvm_mnas.space.architecture import Architecture

    print("| network | parameters | published | mult-adds at 224 |")
    print("| --- | ---: | ---: | ---: |")
    equal = True
    for name, notation in NOTATIONS.items():
        cost = count_cost(Architecture.parse(notation))
        equal &= cost.parameters == PARAMETERS[name]
        print(
            f"| {name} | {cost.parameters:,} | {PARAMETERS[name]:,} | {cost.mult_adds / 1e6:.1f} M |"
        )
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
