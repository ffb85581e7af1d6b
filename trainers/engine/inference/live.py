"""A network in training, to be asked as it stands: a second network over the very same weights.

Training cuts the sequence over a tensor group, wraps the network for gradients and may take Transformer Engine's
attention; decoding wants none of that. So a network for inference is built beside it and given the parameters of the
first: nothing is copied, and what it answers follows every step.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from trainers.engine.megatron import lora, model
from trainers.engine.megatron.model import Network, Precision
from trainers.engine.megatron.specs import Implementation


def inference_network(
    trained: Any, *, precision: Precision, implementation: Implementation, adapted: bool = True
) -> Network:
    """The network for inference over the weights of `trained`, wrapped or not, adapters included; not `adapted`: the
    network that these were put on, whose weights nothing changes.

    For a moment it holds weights of its own, so it takes as much memory again while it is made.
    """
    while not isinstance(trained, Network):
        trained = trained.module
    layout = replace(trained.layout, sequence=False)
    options: dict[str, Any] = {"precision": precision, "implementation": implementation, "inference": True}
    network = model.build(trained.architecture, layout, seed=None, **options)
    if adapted and (adaptation := lora.of(trained)) is not None:
        lora.attach(network, adaptation.lora, base=adaptation.base, parent=adaptation.parent, seed=0)
    _share(trained, network)
    return network.eval()


def _share(trained: Network, network: Network) -> None:
    theirs = dict(trained.named_parameters(remove_duplicate=False))
    mine = [name for name, _ in network.named_parameters(remove_duplicate=False)]
    left = {name for name in set(theirs) ^ set(mine) if lora.of(network) is not None or ".lora." not in name}
    assert not left, f"other parameters: {left}"
    for name in mine:
        module, _, leaf = name.rpartition(".")
        setattr(network.get_submodule(module), leaf, theirs[name])
