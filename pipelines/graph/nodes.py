"""What a graph is made of, as plain values: tables, training runs, models from outside, and what is there already.

A `Table` is one operation over tables, a `TrainedCheckpoint` one training run, an `Existing` a dataset or checkpoint
that is there already; `external` has those that come from and go to other programs. A node's `task_key` is the identity
of what it makes, known before anything has run: the settings that change rows or weights and the keys of everything it
is made of. Paths, processes and threads are not in it. The key stands in the place behind a readable label.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from datakit.op import Op
from datakit.run.facts import joined, tokenizers_after
from datakit.tokenizers.making import MakesTokenizer
from pipelines.graph.model_files import outputs_in, positions_in
from pipelines.graph.node import Node, asked_key, resource_key, rows_of
from pipelines.graph.order import graph_property
from schemas import TOKENIZERS, Schema, chat_template, end_tokens
from schemas.dataset import Dataset
from schemas.errors import ConfigError
from schemas.manifest import Manifest, task_key_of
from schemas.run_layout import RECORDS_END
from schemas.shards import ROWS_PER_SHARD
from schemas.tokenizer import dataset_identity, read_dataset, read_folder
from schemas.tokenizer import vocabulary_size as size_of
from schemas.tokenizer_lineage import TokenizerByColumn, tokenizers_of
from trainers.architecture import output_names
from trainers.config import Paths, Run, Training
from trainers.images import FACT
from trainers.registry import configured


@dataclass(frozen=True, eq=False, kw_only=True)
class Table(Node):
    """A dataset made by an operation. `rows_per_shard` cuts streams into the shards that processes share."""

    op: Op
    inputs: tuple[Node, ...] = ()
    resources: Mapping[str, Node] = field(default_factory=dict)
    seed: int = 0
    rows_per_shard: int = ROWS_PER_SHARD

    @graph_property
    def task_key(self) -> str:
        """Operation, keys of inputs and resources, seed."""
        named = {name: asked_key(name, node, self.op.precision) for name, node in self.resources.items()}
        return task_key_of(self.work, [node.task_key for node in self.inputs], named, self.seed)

    @property
    def kind(self) -> str:
        return "dataset"

    @functools.cached_property
    def work(self) -> Mapping[str, Any]:
        return self.op.to_json()

    @graph_property
    def schema(self) -> Schema:
        return self.op.gives(*(rows_of(node) for node in self.inputs))

    @graph_property
    def tokenizer_id(self) -> str:
        """For a tokenizer its identity, where that is known before it is made, or else its key; for rows that of the
        tokenizer that all their columns speak.
        """
        known = self.op.known_identity if isinstance(self.op, MakesTokenizer) else ""
        if known or self.schema.name == TOKENIZERS.name:
            return known or self.task_key
        tokenizers = {one for several in self.tokenizer_by_column.values() for one in several}
        return tokenizers.pop() if len(tokenizers) == 1 else ""

    @functools.cached_property
    def has_chat_template(self) -> bool | None:
        """That of a tokenizer that is adopted; one that is trained here always has one."""
        return self.op.has_chat_template if isinstance(self.op, MakesTokenizer) else None

    @graph_property
    def trained_tokenizers(self) -> Mapping[str, Node]:
        """Those of what it is made of, and itself where it is a tokenizer whose identity its training decides."""
        known = Node.trained_tokenizers.func(self)
        is_one = self.schema.name == TOKENIZERS.name and self.tokenizer_id == self.task_key
        return {**known, self.task_key: self} if is_one else known

    @graph_property
    def tokenizer_by_column(self) -> TokenizerByColumn:
        """What the inputs' columns speak, and new columns the tokenizer of the resources."""
        named = self.resources.get("tokenizer")
        models = self.resources.values() if named is None else [named]
        speaks = next((v for node in models if (v := node.tokenizer_id)), "")
        schemas = [rows_of(node) for node in self.inputs]
        return tokenizers_after(
            self.op, schemas, [node.tokenizer_by_column for node in self.inputs], self.schema, speaks
        )

    @graph_property
    def written_facts(self) -> Mapping[str, Any]:
        """Those of the text that it writes; else of its inputs, a list where they differ (`datakit.run.facts`)."""
        if self.op.rendering is not None and chat_template.FACT in self.op.replaced_facts:
            return {end_tokens.FACT: True, **self.op.rendering.chat_template.facts}
        return joined([node.written_facts for node in self.inputs])

    @property
    def parents(self) -> Mapping[str, Node]:
        """Inputs by number (a single one is `input`), resources by name."""
        names = ["input"] if len(self.inputs) == 1 else [f"input {i}" for i in range(len(self.inputs))]
        return {**dict(zip(names, self.inputs, strict=True)), **self.resources}


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainedCheckpoint(Node):
    """A checkpoint made by a training; the size of a fresh vocabulary comes from the tokenizer. `ranks` is how many
    processes run it (0: what `[launch]` says).
    """

    trains: ClassVar[bool] = True

    training: Training
    data: Node
    tokenizer: Node
    init: Node | None = None
    validation: Node | None = None
    ranks: int = 0

    @graph_property
    def task_key(self) -> str:
        """What decides the weights: settings, and keys of the data, of the tokenizer and of the checkpoint to start
        from.
        """
        named = {name: resource_key(name, node) for name, node in self.parents.items() if name != "validation"}
        return task_key_of(self.work, named, {}, self.training.learning.seed)

    @property
    def kind(self) -> str:
        return "checkpoint"

    @functools.cached_property
    def work(self) -> Mapping[str, Any]:
        return self.training.learning.op

    @property
    def schema(self) -> None:
        return None

    @property
    def tokenizer_id(self) -> str:
        return self.tokenizer.tokenizer_id or self.tokenizer.task_key

    @property
    def has_chat_template(self) -> bool | None:
        return self.tokenizer.has_chat_template

    @graph_property
    def max_sequence_length(self) -> int | None:
        shape = self.training.learning.model if self.init is None else self.init
        return None if shape is None else shape.max_sequence_length

    @graph_property
    def output_names(self) -> tuple[str, ...]:
        learning = self.training.learning
        algorithm, settings = configured(learning.algorithm, learning.settings, where=self.label)
        if algorithm.output_names is not None:
            return tuple(algorithm.output_names(settings))
        size = learning.model.head_size if learning.model is not None and self.init is None else 1
        earlier = () if self.init is None else self.init.output_names
        return output_names(None, len(earlier) or size) if algorithm.needs.scalar else ()

    @graph_property
    def written_facts(self) -> Mapping[str, Any]:
        """What training makes of those of the data and of the checkpoint it starts from."""
        earlier = {} if self.init is None else self.init.written_facts
        return chat_template.learnt(self.data.written_facts, earlier).facts

    @property
    def parents(self) -> Mapping[str, Node]:
        """Data, tokenizer, and where given init and validation."""
        given = {"data": self.data, "tokenizer": self.tokenizer, "init": self.init, "validation": self.validation}
        return {name: node for name, node in given.items() if node is not None}

    def placed(self) -> Run:
        """The training with its paths and the size of its vocabulary, which its tokenizer has once that is there."""
        model = self.training.learning.model
        model = None if model is None else replace(model, vocab_size=vocabulary_size(self.tokenizer))
        paths = Paths(
            data=self.data.url,
            validation=None if self.validation is None else self.validation.url,
            init=None if self.init is None else self.init.url,
            out=self.url,
            task_key=self.task_key,
            records=f"{self.url}{RECORDS_END}",
            tokenizer=None if self.init is not None else self.tokenizer.url,
            facts={"tokenizer_key": self.tokenizer_id},
        )
        return self.training.placed(paths, model=model)


def vocabulary_size(tokenizer: Node) -> int:
    """One more than the greatest id of a tokenizer."""
    row = read_dataset(Dataset.open(tokenizer.url)) if tokenizer.kind == "dataset" else read_folder(tokenizer.url)
    if row is None:
        raise ConfigError("no-tokenizer", f"{tokenizer.label} has no tokenizer", where=tokenizer.url)
    return size_of(str(row["tokenizer_json"]))


@dataclass(frozen=True, eq=False, kw_only=True)
class Existing(Node):
    """A dataset or checkpoint that lies at `place`; its key is its content."""

    made: ClassVar[bool] = False

    place: str
    existing_manifest: Manifest

    @property
    def task_key(self) -> str:
        """Its task key where it was made by a task, or else the digest of its content."""
        return self.existing_manifest.task_key or self.existing_manifest.content_digest

    @functools.cached_property
    def url(self) -> str:
        return self.place

    @property
    def kind(self) -> str:
        return self.existing_manifest.kind

    @property
    def opened_by(self) -> str:
        return "diffusion" if FACT in self.existing_manifest.facts else self.kind

    @property
    def schema(self) -> Schema | None:
        return self.existing_manifest.schema

    @graph_property
    def tokenizer_id(self) -> str:
        if self.existing_manifest.schema is not None and self.existing_manifest.schema.name == TOKENIZERS.name:
            return dataset_identity(Dataset.open(self.place))
        tokenizer = self.existing_manifest.facts.get("tokenizer", "")
        return tokenizer if isinstance(tokenizer, str) else ""

    @functools.cached_property
    def has_chat_template(self) -> bool | None:
        if self.kind == "checkpoint":
            row = read_folder(self.place)
        elif self.schema is not None and self.schema.name == TOKENIZERS.name:
            row = read_dataset(Dataset.open(self.place))
        else:
            row = None
        return None if row is None else row["chat_template"] is not None

    @functools.cached_property
    def max_sequence_length(self) -> int | None:
        return positions_in(self.place) if self.kind == "checkpoint" else None

    @functools.cached_property
    def output_names(self) -> tuple[str, ...]:
        return outputs_in(self.place, self.existing_manifest.facts) if self.kind == "checkpoint" else ()

    @property
    def tokenizer_by_column(self) -> TokenizerByColumn:
        return tokenizers_of(self.existing_manifest.schema, self.existing_manifest.facts)

    @property
    def written_facts(self) -> Mapping[str, Any]:
        return self.existing_manifest.facts

    @property
    def parents(self) -> Mapping[str, Node]:
        """Nothing that would have to be made."""
        return {}
