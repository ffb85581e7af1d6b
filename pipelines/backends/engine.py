"""What a backend declares whose model answers in an engine of another program, in our own worker processes.

    vllm:quiver-data/demo/policy-3f2a91c0      a checkpoint: exported once below the root, asked there
    vllm:./llama-3.1-8b,gpus=4                 a Hugging Face folder: asked as it is, four GPUs a worker

The graph makes what an engine stands on as any other result: the checkpoint, its export (`engines/NAME/folder`), and
what our own network thinks of a few texts (`engines/NAME/known`), which a worker holds the engine against when it has
loaded the model. A new engine is a file below `pipelines/backends` with the methods of `TokenEngine`.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple
from urllib.parse import parse_qs

from datakit.clients import Determinism
from datakit.engines import KnownLogprobs
from datakit.op import Capability, Op, Precision
from datakit.template import Rendering
from pipelines.backends.checkpoint import Checkpoint
from pipelines.backends.hf_folder import check_content
from pipelines.engines import agreement
from pipelines.engines.client import EngineGenerator, EngineTokenModel, TokenEngine
from pipelines.graph.backend import Backend, Placement, Role, Step, checkpoint_at, placement_of
from pipelines.graph.external import ConvertedModel, EngineModel, ImportedModel
from pipelines.graph.model_check import check_whole
from pipelines.graph.model_files import positions_in, vocabulary_in
from pipelines.graph.node import GraphBuilder, Node
from pipelines.graph.placement import IDENTITY
from pipelines.graph.resolve import stem
from schemas import Schema
from schemas.dataset import Dataset
from schemas.end_tokens import TurnEnd
from schemas.errors import ConfigError
from schemas.installed import missing_library
from schemas.nemo.model import is_nemo
from schemas.store.commit import read_manifest
from schemas.tokenizer import SOURCES

if TYPE_CHECKING:
    from trainers.engine.inference.answer_texts import AnswerTexts

_KNOWN = KnownLogprobs().longest
_SHORTEST = 8
"""Positions of the least model that can be compared: a prompt and an answer of a few tokens."""


@dataclass(frozen=True, kw_only=True)
class EnginePlacement(Placement):
    """Where an engine works: on `gpus` GPUs a worker, over which it cuts the model (tensor parallel). `memory` is the
    share of a GPU that it may take, `positions` the most tokens that it reads of a row (0: as many as the model);
    `determinism` says whether it answers the same rows the same: always (`exact`), in the same batch, or not.
    """

    gpus: int = 1
    alone: bool = True
    memory: float = 0.9
    determinism: Determinism = "none"
    positions: int = field(default=0, metadata=IDENTITY)

    def faults(self) -> list[str]:
        """Which numbers are out of their range."""
        wrong = [] if 0 < self.memory <= 1 else [f"memory {self.memory} is not above 0 and at most 1"]
        low = 0 < self.positions < _SHORTEST or self.positions < 0
        return [*super().faults(), *wrong, *([f"positions {self.positions} is below {_SHORTEST}"] if low else [])]


class Loading(NamedTuple):
    """How an engine is loaded: the Hugging Face `folder`, cut over `tensor` GPUs, reading at most `longest` tokens, in
    `precision`, with the share `memory` of each GPU; whether it draws answers, or is asked about given tokens alone.
    """

    folder: str
    tensor: int
    longest: int
    precision: Precision
    memory: float
    draws: bool

    @property
    def dtype(self) -> str:
        """The precision by torch's name, which is the engines', too."""
        return {"fp32": "float32", "bf16": "bfloat16"}[self.precision]


class Engine(Backend):
    """Base of the engines: a subclass says which library it is, and loads a folder with it."""

    library: ClassVar[str]
    """The module that is imported, and the distribution whose version is written down."""
    distributions: ClassVar[tuple[str, ...]]
    extra: ClassVar[str]
    """The extra that installs it."""
    roles: ClassVar[Mapping[Role, frozenset[Capability]]] = {
        "generator": frozenset({"token_ids", "logprobs", "seeds", "top_k"}),
        "model": frozenset({"token_ids", "logprobs", "top_k"}),
    }
    placement: ClassVar[Placement] = EnginePlacement()
    settings: ClassVar[tuple[str, ...]] = ("gpus", "workers", "precision", "memory", "positions", "determinism")

    @abstractmethod
    def load(self, asked: Loading) -> TokenEngine:
        """The engine with the model of `asked` in it; called in a worker that sees its own GPUs alone."""

    def node(self, plan: GraphBuilder, reference: str) -> Node:
        if importlib.util.find_spec(self.library) is None:
            raise missing_library(reference, self.library, self.extra, kept="nothing was started")
        place = reference.partition(":")[2]
        model = checkpoint_at(plan, place)
        check_whole(model)
        label, positions = f"engines/{stem(place)}", model.max_sequence_length or _KNOWN + 1
        if positions < _SHORTEST:
            raise _too_short(place, positions)
        known = plan.table(
            f"{label}/known", KnownLogprobs(longest=min(_KNOWN, positions - 1)), model=model, tokenizer=model
        )
        given: dict[str, Any] = {
            "label": f"{stem(place)} in {self.kind}",
            "root": plan.root,
            "model": model,
            "known": known,
        }
        if (
            isinstance(model, ImportedModel)
            and model.tokenizer is None
            and not model.base
            and not is_nemo(model.folder)
        ):
            return EngineModel(engine=self.kind, place=model.folder, content_digest=model.content_digest, **given)
        exported = ConvertedModel(
            label=f"{label}/folder", root=plan.root, model=model, does="export", settings=(("dtype", "keep"),)
        )
        return EngineModel(engine=self.kind, folder=plan.add(exported), **given)

    def settled(self, node: Node) -> Node:
        assert isinstance(node, EngineModel), node
        return replace(node, positions=_placement(node).positions)

    def takes(self, node: Node, role: Role, rows: Schema) -> Schema:
        return Checkpoint().takes(node, role, rows)

    def steps(self, op: Op, role: Role, rows: Schema, rendering: Rendering, max_length: int | None) -> Sequence[Step]:
        """Those of the checkpoint: an engine reads the same tokens."""
        return Checkpoint().steps(op, role, rows, rendering, max_length)

    def determinism(self, node: Node) -> Determinism:
        return _placement(node).determinism

    def tokenizer(self, url: str) -> object:
        return Checkpoint().tokenizer(_parts(url).checkpoint)

    def open(self, url: str, role: Role, takes: Schema, placement: Placement) -> object:
        """The engine, loaded and held against our own network; `IntegrityError` (11) where it computes anything else,
        or where its folder is no longer the one that was planned.
        """
        assert isinstance(placement, EnginePlacement), placement
        from pipelines.runtime.workers import visible_gpus

        where, draws = _parts(url), role == "generator"
        if where.content_digest:
            check_content(where.folder, "", where.content_digest)
        texts = answer_texts(where.checkpoint, placement.positions)
        tensor = max(1, min(placement.gpus, len(visible_gpus())))
        asked = Loading(where.folder, tensor, texts.longest, placement.precision, placement.memory, draws)
        engine = self.load(asked)
        try:
            known = Dataset.open(where.known).read().to_pylist()
            compared = agreement.agreed(engine, known, placement.precision, self._named(), draws=draws)
        except BaseException:
            engine.close()
            raise
        return (EngineGenerator if draws else EngineTokenModel)(engine, texts, compared)

    def _named(self) -> str:
        """The engine and its version, where a distribution of it says one."""
        for name in self.distributions:
            try:
                return f"{self.kind} {importlib.metadata.version(name)}"
            except importlib.metadata.PackageNotFoundError:
                continue
        return self.kind


class _Parts(NamedTuple):
    folder: str
    checkpoint: str
    known: str
    content_digest: str


def _parts(url: str) -> _Parts:
    """Where the parts of a model lie, of the `url` of its node."""
    folder, _, query = url.partition(":")[2].rpartition("?")
    parts = {name: values[0] for name, values in parse_qs(query, keep_blank_values=True).items()}
    return _Parts(folder, **parts)


def _placement(node: Node) -> EnginePlacement:
    placement = placement_of(node)
    assert isinstance(placement, EnginePlacement), placement
    return placement


def answer_texts(checkpoint: str, positions: int = 0) -> AnswerTexts:
    """What ends answers of the model in a checkpoint folder and what their texts are, as for our own sampler, where at
    most `positions` tokens are read (0: as many as the model does).
    """
    from trainers.engine.inference.answer_texts import AnswerTexts, read_tokenizer

    folder, manifest = Path(checkpoint.removeprefix("file://")), read_manifest(checkpoint)
    size, longest = vocabulary_in(checkpoint), positions_in(checkpoint)
    assert manifest is not None and size and longest, f"{checkpoint} is a checkpoint"
    files = {name: (folder / name).read_text(encoding="utf-8") for name in SOURCES if (folder / name).is_file()}
    tokenizer, ends = read_tokenizer(files, TurnEnd.of(manifest.facts), size, checkpoint)
    return AnswerTexts(tokenizer, ends.ids, size, min(longest, positions or longest), ends.texts)


def _too_short(place: str, positions: int) -> ConfigError:
    return ConfigError(
        "no-capability",
        f"{place} reads {positions} tokens, too few to compare an engine with it",
        expected=f"a model that reads {_SHORTEST} tokens or more",
        kept="nothing was started",
        next=f"--model {place}",
    )
