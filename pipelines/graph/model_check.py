"""What a model cannot do by its own small file, found as the graph is made: numbers on rows, tokens, so many ids, an
export.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from pipelines.graph.backend import roles_of
from pipelines.graph.external import ConvertedModel, ImportedModel
from pipelines.graph.model_files import ADAPTERS, scores_in, vocabulary_in
from pipelines.graph.node import Node
from pipelines.graph.nodes import Existing, Table, TrainedCheckpoint
from schemas.errors import ConfigError, printable
from schemas.store.storage import normal, shown

_NUMBERS = frozenset({"scores", "values"})
"""What a scalar head gives, and no language model."""


def check_answers(node: Table) -> None:
    """`ConfigError` where `node` asks a language model for numbers, a reward model for tokens or what it thinks of
    them, or a model for more ids than it knows.
    """
    for role in roles_of(node.op):
        model, numbers = node.resources[role], bool(node.op.asks & _NUMBERS)
        scalar = has_scalar_head(model)
        if scalar is not None and scalar != numbers:
            raise _without_numbers(node, model) if numbers else _without_tokens(node, model)
        if node.op.top_k:
            check_top_k(node.op.top_k, [model], """--params '{"k": %d}'""")


def check_top_k(k: int, models: Sequence[Node], cure: str) -> None:
    """`ConfigError` where one of `models` knows fewer than `k` ids; `cure` is the flag, `%d` in it the most."""
    most, model = min(((known_ids(one) or k, one) for one in models), key=lambda pair: pair[0])
    if k > most:
        raise ConfigError(
            "bad-setting",
            f"the {k} likeliest of {most} ids cannot be said",
            expected=f"k from 1 to {most}, the ids that {printable(model.name)} knows",
            found=str(k),
            where=shown(model.url),
            kept="nothing was started",
            next=cure % most,
        )


def check_whole(node: Node) -> None:
    """`ConfigError` where `node` is LoRA adapters alone."""
    if is_adapters_alone(node):
        raise ConfigError(
            "adapters-alone",
            f"{printable(node.name)} holds LoRA adapters, not a whole network",
            expected="a checkpoint of a whole network",
            where=shown(node.url),
            kept="nothing was started",
            next=f"luigi --module pipelines MergeModel --model {shlex.quote(normal(node.url))}",
        )


def is_adapters_alone(node: Node) -> bool:
    """Whether the checkpoint `node` is there and is LoRA adapters, without the network that they were trained on."""
    manifest = node.manifest()
    return manifest is not None and any(file.path == ADAPTERS for file in manifest.files)


def has_scalar_head(node: Node) -> bool | None:
    """Whether the model puts numbers on rows, and gives no tokens; None where that is not known."""
    if isinstance(node, TrainedCheckpoint):
        return bool(node.output_names)
    folder, base = _folder(node)
    return scores_in(folder, base) if folder else None


def known_ids(node: Node) -> int | None:
    """Ids that the model knows; None where that is not known."""
    while isinstance(node, TrainedCheckpoint) and node.init is not None:
        node = node.init
    folder, base = _folder(node)
    return vocabulary_in(folder, base) if folder else None


def _without_numbers(node: Table, model: Node) -> ConfigError:
    learn = f"RewardModel --model {shlex.quote(place_of(model))} --data pairs.jsonl --lr 1e-5"
    return ConfigError(
        "no-reward-model",
        f"{node.label}: {printable(model.name)} is a language model, not a reward model",
        expected="a model with a scalar head, as RewardModel trains one, or a Python function (my_reward:score)",
        found="an lm head",
        where=shown(model.url),
        kept="nothing was started",
        next=f"luigi --module pipelines {learn}",
    )


def _without_tokens(node: Table, model: Node) -> ConfigError:
    return ConfigError(
        "no-language-model",
        f"{node.label}: {printable(model.name)} is a reward model, not a language model",
        expected="a model with an lm head, such as the one that the reward model was trained from",
        found="a scalar head",
        where=shown(model.url),
        kept="nothing was started",
        next=f"quiver show {shlex.quote(place_of(model))}",
    )


def place_of(model: Node) -> str:
    """What a command is given to have this model: an absolute path, or an address."""
    return normal(_folder(model)[0] or model.url)


def _folder(node: Node) -> tuple[str, str]:
    """Where the small file of the model lies, and the base of adapters that came from outside; empty where there is
    none yet.
    """
    while isinstance(node, ConvertedModel):
        node = node.model
    if isinstance(node, ImportedModel):
        return node.folder, node.base
    return (node.place, "") if isinstance(node, Existing) and node.kind == "checkpoint" else ("", "")
