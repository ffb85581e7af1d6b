"""Models that are served: what a reference names, made a checkpoint first where it is a folder of another program."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from datakit.template import Rendering
from pipelines.graph.backend import checkpoint_at, placement_of
from pipelines.graph.external import ImportedModel
from pipelines.graph.plan import Plan
from pipelines.serve.texts import Texts
from schemas.errors import ConfigError

if TYPE_CHECKING:
    from trainers.engine.inference.frozen import FrozenModel
    from trainers.engine.inference.generator import Generator


@dataclass(frozen=True)
class Place:
    """A checkpoint that is to be served: its folder, and in what it computes."""

    folder: str
    name: str
    precision: Any = "fp32"


@dataclass(frozen=True)
class Served:
    """A model in memory, under the `name` that clients call it. `generator` is there for a policy, `outputs` (what its
    numbers are called) for a reward model; `weights_digest` is theirs, and they are computed with in `precision`.
    """

    name: str
    network: FrozenModel
    texts: Texts
    generator: Generator | None = None
    outputs: Sequence[str] = ()
    weights_digest: str = ""
    positions: int = 0
    precision: Any = "fp32"


def place_at(reference: str, root: str, name: str = "") -> Place:
    """The checkpoint that `reference` names, as in `--model`; of a Hugging Face or PEFT folder one is made below
    `root`, once. `ConfigError` for what is no model here.
    """
    plan = Plan(root)
    node = checkpoint_at(plan, reference, asked=True)
    folder = node.url
    if isinstance(node, ImportedModel):
        import pipelines

        base = {"base": node.base} if node.base else {}
        made = pipelines.run("ImportModel", folder=node.folder, quiver_root=root, name=node.label, **base)
        [folder] = made.checkpoints.values()
    called = name or os.path.basename(os.path.normpath(os.path.expanduser(reference.partition(",")[0])))
    return Place(folder, called, placement_of(node).precision)


def opened(place: Place, rendering: Rendering) -> Served:
    """The model at `place`, a policy or a reward model, in this process; `ConfigError` where it has no tokenizer."""
    from datakit.tokenizers.tokenizer import Tokenizer
    from trainers.architecture import OUTPUT_NAMES, output_names
    from trainers.engine.checkpoint import checkpoint as checkpoints
    from trainers.engine.inference import frozen
    from trainers.engine.inference import generator as generators

    source = checkpoints.open_checkpoint(place.folder)
    texts = Texts(Tokenizer.of_folder(place.folder), rendering)
    network = frozen.open_network(source, precision=place.precision)
    generator: Generator | None = None
    outputs: Sequence[str] = ()
    if source.model.head == "lm":
        tokenizer, ends = generators.load_tokenizer(source)
        generator = generators.Generator(network, tokenizer, ends.ids, stop=ends.texts)
    else:
        outputs = output_names(source.manifest.facts.get(OUTPUT_NAMES), source.model.head_size)
    return Served(
        place.name,
        frozen.FrozenModel(network),
        texts,
        generator,
        outputs,
        source.weights_digest,
        source.model.max_sequence_length,
        place.precision,
    )


def pair(first: Place, second: Place | None, rendering: Rendering) -> tuple[Served | None, Served | None]:
    """A policy and a reward model: `first` may be either, `second` is a reward model. `ConfigError` for others."""
    one = opened(first, rendering)
    if second is None:
        chosen = (one, None) if one.generator is not None else (None, one)
        checked(*chosen)
        return chosen
    require_policy(one)
    other = opened(second if second.name != first.name else replace(second, name=f"{second.name}-reward"), rendering)
    if other.generator is not None:
        raise ConfigError(
            "no-reward-model",
            f"{other.name} is no reward model",
            expected="--reward CHECKPOINT of a model with a scalar head",
            kept="nothing was started",
        )
    checked(one, other)
    return one, other


def checked(*served: Served | None) -> None:
    """Render a short conversation with each that has a template: its faults are met before anybody asks."""
    for one in served:
        if one is not None:
            one.texts.check()


def require_policy(served: Served) -> Generator:
    """Its generator; `ConfigError` for a reward model."""
    if served.generator is None:
        raise ConfigError(
            "no-language-model",
            f"{served.name} is a reward model: it puts numbers on answers and gives none",
            expected="the checkpoint of a policy",
            kept="nothing was started",
        )
    return served.generator
