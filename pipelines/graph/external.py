"""Models from other programs and for them: Hugging Face folders in and out, and models that lie elsewhere.

ImportedModel     a checkpoint made of a Hugging Face folder (trainers.import_hf)
ConvertedModel    a Hugging Face folder made of a checkpoint (trainers.export); adapters merged (trainers.merge)
MeasuredModel     a reward model's checkpoint with mean and spread of its rewards
ExternalModel     a function, a server, another engine's folder: asked where it is, never made
EngineModel       a model in an engine of another program (vLLM): its folder, and what our network thinks of a few texts
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal
from urllib.parse import urlencode

from pipelines.graph.model_files import outputs_in, positions_in
from pipelines.graph.node import Node
from pipelines.graph.order import graph_property
from schemas.manifest import task_key_of
from schemas.tokenizer import folder_identity, read_folder


@dataclass(frozen=True, eq=False, kw_only=True)
class ImportedModel(Node):
    """The checkpoint that `trainers.import_hf` makes of the folder `folder`, with its tokenizer or another; where the
    folder holds adapters alone, of these on the model in the folder `base`.
    """

    folder: str
    content_digest: str
    tokenizer: Node | None = None
    base: str = ""

    @property
    def tokenizer_folder(self) -> str:
        """Where its own tokenizer lies: beside adapters only where one was saved with them."""
        return self.base if self.base and read_folder(self.folder) is None else self.folder

    @graph_property
    def task_key(self) -> str:
        """The folder's content, and the tokenizer where another was given."""
        return task_key_of(self.work, {name: node.task_key for name, node in self.parents.items()}, {}, 0)

    @property
    def kind(self) -> str:
        return "checkpoint"

    @property
    def work(self) -> Mapping[str, Any]:
        """The import, under the name that it has in keys, and what is imported."""
        return {"name": "adopt", "version": 2, "params": {"content": self.content_digest}}

    @property
    def schema(self) -> None:
        """A checkpoint has no rows."""

    @functools.cached_property
    def tokenizer_id(self) -> str:
        """The identity of its tokenizer."""
        return folder_identity(self.tokenizer_folder) if self.tokenizer is None else self.tokenizer.tokenizer_id

    @functools.cached_property
    def has_chat_template(self) -> bool | None:
        if self.tokenizer is not None:
            return self.tokenizer.has_chat_template
        row = read_folder(self.tokenizer_folder)
        return None if row is None else row["chat_template"] is not None

    @functools.cached_property
    def max_sequence_length(self) -> int | None:
        return positions_in(self.folder, self.base)

    @functools.cached_property
    def output_names(self) -> tuple[str, ...]:
        return outputs_in(self.folder, {}, self.base)

    @property
    def parents(self) -> Mapping[str, Node]:
        """The tokenizer, where it is not the folder's own."""
        return {} if self.tokenizer is None else {"tokenizer": self.tokenizer}


@dataclass(frozen=True, eq=False, kw_only=True)
class ConvertedModel(Node):
    """What a conversion makes of a checkpoint: `export` a Hugging Face folder, `merge` an ordinary checkpoint of
    adapters and their base. `settings` are arguments of it.
    """

    model: Node
    does: Literal["export", "merge", "measure", "ask"]
    settings: tuple[tuple[str, str], ...] = ()

    @graph_property
    def task_key(self) -> str:
        """The checkpoint and the settings."""
        return task_key_of(self.work, {"checkpoint": self.model.task_key}, {}, 0)

    @property
    def kind(self) -> str:
        """A checkpoint, or a folder of files for other programs."""
        return "export" if self.does == "export" else "checkpoint"

    @property
    def work(self) -> Mapping[str, Any]:
        """The conversion and its settings."""
        version = {"export": 2, "merge": 1, "measure": 1}[self.does]
        return {"name": self.does, "version": version, "params": dict(self.settings)}

    @property
    def schema(self) -> None:
        return None

    @property
    def tokenizer_id(self) -> str:
        return self.model.tokenizer_id

    @property
    def has_chat_template(self) -> bool | None:
        return self.model.has_chat_template

    @property
    def max_sequence_length(self) -> int | None:
        return self.model.max_sequence_length

    @property
    def output_names(self) -> tuple[str, ...]:
        return self.model.output_names

    @property
    def written_facts(self) -> Mapping[str, Any]:
        return self.model.written_facts

    @property
    def parents(self) -> Mapping[str, Node]:
        return {"checkpoint": self.model}


@dataclass(frozen=True, eq=False, kw_only=True)
class MeasuredModel(ConvertedModel):
    """The checkpoint of a reward model with mean and standard deviation of each of its numbers, of held-out `rewards`;
    the weights stay as they are.
    """

    does: Literal["export", "merge", "measure", "ask"] = "measure"
    rewards: Node

    @graph_property
    def task_key(self) -> str:
        return task_key_of(self.work, {name: node.task_key for name, node in self.parents.items()}, {}, 0)

    @property
    def parents(self) -> Mapping[str, Node]:
        return {"checkpoint": self.model, "rewards": self.rewards}


@dataclass(frozen=True, eq=False, kw_only=True)
class EngineModel(ConvertedModel):
    """A model that the engine of the backend `engine` answers for, from a Hugging Face folder: the export `folder` of
    the checkpoint `model`, or the one at `place` that `model` was imported from, as it is by its `content_digest`.

    Nothing makes it, but what it stands on is made first. `known` are rows of a few texts with our own network's
    log-probabilities, which the engine's are held against. `positions` is the most tokens that it reads (0: the
    model's).
    """

    made: ClassVar[bool] = False

    does: Literal["export", "merge", "measure", "ask"] = "ask"
    engine: str
    known: Node
    folder: Node | None = None
    place: str = ""
    content_digest: str = ""
    positions: int = 0

    @property
    def kind(self) -> str:
        return self.engine

    @property
    def work(self) -> Mapping[str, Any]:
        """The engine: other draws than our own sampler's."""
        return {"name": self.engine, "version": 1, "params": {}}

    @functools.cached_property
    def url(self) -> str:
        """What its backend opens: the folder, and behind it where the checkpoint and the known rows are."""
        parts = {"checkpoint": self.model.url, "known": self.known.url, "content_digest": self.content_digest}
        return f"{self.engine}:{self.folder.url if self.folder else self.place}?{urlencode(parts)}"

    @property
    def max_sequence_length(self) -> int | None:
        given = [one for one in (self.model.max_sequence_length, self.positions) if one]
        return min(given, default=None)

    @property
    def parents(self) -> Mapping[str, Node]:
        made = {} if self.folder is None else {"folder": self.folder}
        return {"checkpoint": self.model, "known": self.known, **made}

    def manifest(self) -> None:
        return None


@dataclass(frozen=True, eq=False, kw_only=True)
class ExternalModel(Node):
    """A model that no stage makes and no manifest describes: a function, a server, a folder of another engine.

    `identity` is its content as `name`, `version` and `params`, never its address; `tokenizer` the identity of the
    tokenizer whose ids it reads, empty for a reader of text. `backend` is the kind of the backend that opens it.
    `chat_template` says whether that tokenizer has one, `positions` how many tokens a row may have (None: not known).
    `outputs` are the names of the numbers that it puts on a row, where they are known before it is asked.
    """

    made: ClassVar[bool] = False

    reference: str
    backend: str
    identity: Mapping[str, Any]
    tokenizer: str = ""
    chat_template: bool | None = None
    positions: int | None = None
    outputs: tuple[str, ...] = ()

    @graph_property
    def task_key(self) -> str:
        return task_key_of(self.work, {}, {}, 0)

    @property
    def kind(self) -> str:
        return self.backend

    @property
    def work(self) -> Mapping[str, Any]:
        return self.identity

    @property
    def schema(self) -> None:
        """A model has no rows."""

    @functools.cached_property
    def url(self) -> str:
        """The reference: what its backend opens."""
        return self.reference

    @property
    def tokenizer_id(self) -> str:
        return self.tokenizer

    @property
    def has_chat_template(self) -> bool | None:
        return self.chat_template

    @property
    def max_sequence_length(self) -> int | None:
        return self.positions

    @property
    def output_names(self) -> tuple[str, ...]:
        return self.outputs

    @property
    def parents(self) -> Mapping[str, Node]:
        """Nothing that would have to be made."""
        return {}

    def manifest(self) -> None:
        return None
