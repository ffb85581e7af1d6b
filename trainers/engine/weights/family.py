"""What a family of models is: the architectures it answers to, its settings, and its table of tensors.

A `Rule` says which tensors of a Hugging Face folder make up one of Megatron's tensors, through which transform. A rule
is written once for all layers (`{layer}`) and experts (`{expert}`). The same table is read in both directions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from schemas.errors import ConfigError, printable
from trainers.architecture import ModelConfig, shape_faults
from trainers.engine.weights.hfconfig import Config
from trainers.engine.weights.transforms import PLAIN, VOCABULARY, Shape, Transform
from trainers.tensors import Index, Stack, stacks


@dataclass(frozen=True)
class Part:
    """A tensor of a folder, or with `row` one slice of its first dimension; `shape` is that of the tensor."""

    name: str
    shape: Shape
    row: int | None = None


@dataclass(frozen=True)
class Spelling:
    """One way in which a folder may hold a piece. `by_expert`: its tensors hold all experts of a layer."""

    names: tuple[str, ...]
    transform: Transform = PLAIN
    by_expert: bool = False

    def parts(self, stack: Stack, index: Index, model: ModelConfig) -> list[Part]:
        """The folder's tensors that make up the piece at `index`."""
        place = dict(zip(("layer", "expert"), index, strict=False))
        shapes = self.transform.shapes(stack.shape, model)
        assert len(shapes) == len(self.names), f"{stack.name}: {shapes} for {self.names}"
        row = place["expert"] if self.by_expert else None
        lead = (stack.lead[-1],) if self.by_expert else ()
        return [Part(n.format(**place), (*lead, *s), row) for n, s in zip(self.names, shapes, strict=True)]


@dataclass(frozen=True)
class Rule:
    """Megatron's tensor `stack` and its spellings; the first is the one that is written."""

    stack: str
    spellings: tuple[Spelling, ...]


def rule(stack: str, *names: str, through: Transform = PLAIN, otherwise: Spelling | None = None) -> Rule:
    """A rule with one spelling, or two."""
    first = Spelling(names, through)
    return Rule(stack, (first,) if otherwise is None else (first, otherwise))


_HEADS = {
    "lm": rule("output_layer.weight", "lm_head.weight", through=VOCABULARY),
    "scalar": rule("output_layer.weight", "score.weight"),
}


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family of models. `causal` and `scalar` are its architectures with a language-model and a reward head.

    `fixed` holds, for fields of Model, the values that the family can express: with a single one it is also what
    import sets. `read` takes the remaining fields from a config, `write` says a Model as config.json (sizes and what
    is particular; the common keys are added). `limits` lists what `fixed` cannot say against a Model. `prefix` stands
    before every name but the head's. `loose` matches tensors of a folder that carry nothing, with the reason.
    """

    name: str
    causal: str
    scalar: str
    read: Callable[[Config], dict[str, Any]]
    write: Callable[[ModelConfig], dict[str, Any]]
    rules: tuple[Rule, ...]
    fixed: Mapping[str, tuple[Any, ...]]
    prefix: str = "model."
    tied: bool = False
    limits: Callable[[ModelConfig], list[str]] = lambda model: []
    harmless: Mapping[str, str] = field(default_factory=dict)
    loose: Mapping[str, str] = field(default_factory=dict)

    def model(self, data: Mapping[str, Any], where: str) -> ModelConfig:
        """The Model of a config.json; `ConfigError` lists every key and value that is not supported."""
        config = Config(data, where)
        config.hold_all()
        config.ignore(self.harmless)
        head = self._head(config)
        known = {name: values[0] for name, values in self.fixed.items() if len(values) == 1}
        tied = config.flag("tie_word_embeddings", self.tied) and head["head"] == "lm"
        fields = {**known, "tie_embeddings": tied, **self.read(config), **head}
        config.finish()
        model = ModelConfig(**fields)
        if faults := [*shape_faults(model), *self.faults(model)]:
            raise ConfigError("unsupported-model", "; ".join(faults), where=where, kept="nothing was written")
        return model

    def _head(self, config: Config) -> dict[str, Any]:
        labels = config.data.get("id2label")
        if labels is not None and not isinstance(labels, dict):
            config.fault(f"id2label {printable(labels)} is no object")
            labels = None
        count = config.maybe("num_labels") or len(labels or {}) or 2
        if config.data.get("architectures") == [self.scalar]:
            return {"head": "scalar", "head_size": count}
        return {"head": "lm"}

    def faults(self, model: ModelConfig) -> list[str]:
        """Why this family cannot say `model`; empty when it can."""
        wrong = [
            f"{name} {getattr(model, name)} (it has {' or '.join(map(str, values))})"
            for name, values in self.fixed.items()
            if getattr(model, name) not in values
        ]
        return wrong + self.limits(model)

    def config(self, model: ModelConfig) -> dict[str, Any]:
        """config.json of `model`, without types and token ids."""
        keys: dict[str, Any] = {
            "architectures": [self.causal if model.head == "lm" else self.scalar],
            "model_type": self.name,
        }
        keys |= {"vocab_size": model.vocab_size, "tie_word_embeddings": model.tie_embeddings, **self.write(model)}
        if model.head == "scalar":
            labels = [f"LABEL_{number}" for number in range(model.head_size)]
            keys["id2label"] = {str(number): label for number, label in enumerate(labels)}
            keys["label2id"] = {label: number for number, label in enumerate(labels)}
        return keys

    def table(self, model: ModelConfig) -> Iterator[tuple[Stack, tuple[Spelling, ...]]]:
        """Every tensor of the network of `model`, with its spellings."""
        rules = {rule.stack: rule.spellings for rule in (*self.rules, _HEADS[model.head])}
        for name, stack in sorted(stacks(model).items()):
            assert name in rules, f"{self.name} has no rule for {name}"
            yield stack, rules[name]
