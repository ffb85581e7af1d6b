"""A model of NeMo as tensors by name: an archive or folder opened, its settings read, its weights found.

Nothing of it is copied before all of it has been weights against the network that the settings describe.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from schemas.end_tokens import TurnEnd
from schemas.errors import ConfigError, DataError, QuiverError, printable
from schemas.nemo.archive import Archive
from schemas.nemo.model import CONFIG, CONFIG_2, settings_at, tokenizer_files
from schemas.nemo.tar import bad_archive
from schemas.store.storage import shown
from schemas.tokenizer import TOKENS, vocabulary_size
from trainers.architecture import ModelConfig
from trainers.engine.weights import registry, tokenizer
from trainers.engine.weights.check import Check, CheckResult
from trainers.engine.weights.nemo import distributed, names, ranks
from trainers.engine.weights.nemo.lazy_tensor import FirstRows, LazyTensor, Moved
from trainers.engine.weights.nemo.settings import model_of
from trainers.engine.weights.plan import Incoming, planned
from trainers.engine.weights.tensorfile import DTYPES
from trainers.engine.weights.tokenizer import TokenizerFiles

_TYPES = {dtype: name for name, dtype in DTYPES.items()}
_COPIES = (*names.HEADS, "word_embeddings.weight")
"""What the last pipeline stage of a model holds that ties its embedding and its head."""
_UNCOMPARED = "transformers reads no model of NeMo"


class NemoModel:
    """The weights of a model of NeMo: a `TensorSource` of `plan`."""

    def __init__(self, path: str, described: str, weights: Mapping[str, LazyTensor]) -> None:
        self.path, self.described, self._weights = path, described, weights
        self.config: dict[str, Any] = {}

    @property
    def tensors(self) -> Mapping[str, tuple[int, ...]]:
        """The shape of every weight, by its name."""
        return {name: weights.shape for name, weights in self._weights.items()}

    def dtype(self, name: str) -> str:
        """The type of a weight, as safetensors calls it, or torch where that has no such type."""
        dtype = self._weights[name].dtype
        return _TYPES.get(dtype, str(dtype))

    def source(self, name: str) -> str:
        """The archive or folder itself."""
        return self.path

    def read(self, name: str, row: int | None = None) -> Tensor:
        """A weight, or one slice of its first dimension."""
        weights = self._weights[name]
        return weights.read() if row is None else weights.read(row, row + 1)[0]

    def json(self, name: str) -> dict[str, Any]:
        """NeMo keeps no such file."""
        return {}


@contextmanager
def incoming(path: str, tokenizer_from: str | None, say: Callable[[str], None], taught: TurnEnd) -> Iterator[Incoming]:
    """The model of NeMo at `path`, with the tokenizer that it brings or the one at `tokenizer_from`."""
    words = _own_tokenizer(path) if tokenizer_from is None else tokenizer.at(tokenizer_from)
    settings = settings_at(path)
    model = model_of(settings, path, vocabulary_size(words.files[TOKENS]))
    with Archive(path) as archive:
        weights = _weights_in(archive, model.gated)
        model = _with_head(model, weights, path)
        _drop_copies(model, weights, path)
        _cut(model, weights, path)
        source = NemoModel(path, CONFIG_2 if settings.is_second else CONFIG, weights)
        plan = planned(source, names.EARLIER if names.is_earlier(weights) else names.CORE, model)
        chosen = tokenizer.chosen(source, words, tokenizer_from, model, say, taught)
        yield Incoming(plan, chosen, _family(model), _compare)


def _own_tokenizer(path: str) -> TokenizerFiles:
    """The tokenizer.json that the model brings."""
    files = tokenizer_files(path)
    if TOKENS in files:
        return tokenizer.of_texts({name: data.decode() for name, data in files.items()}, path)
    raise ConfigError(
        "no-tokenizer",
        f"{shown(path)} brings no {TOKENS}",
        found=", ".join(sorted(files)) or "no tokenizer",
        where=path,
        kept="nothing was written",
        next="name a tokenizer with --tokenizer; ImportModel reads one of SentencePiece out of the archive itself",
    )


def _weights_in(archive: Archive, gated: bool) -> dict[str, LazyTensor]:
    """The weights in whichever layout they are kept."""
    folder = distributed.folder_of(archive)
    if ranks.has_ranks(archive):
        if folder is not None:
            raise bad_archive(archive.path, f"weights twice: {ranks.FILE}, and {folder}")
        return ranks.tensors(archive, gated)
    if folder is not None:
        return distributed.tensors(archive, folder)
    raise DataError(
        "no-weights",
        f"{shown(archive.path)} has no weights that can be read",
        expected=f"{ranks.FILE}, files of ranks, or a distributed checkpoint in model_weights or weights",
        found=printable(sorted(archive.pieces)[:8], 200),
        where=archive.path,
        kept="nothing was written",
    )


def _with_head(model: ModelConfig, weights: dict[str, LazyTensor], path: str) -> ModelConfig:
    """The model with the head that the weights have: NeMo-Aligner's reward models keep a language model's unused."""
    reward = weights.get(names.REWARD)
    if reward is None:
        return model
    for name in names.HEADS:
        weights.pop(name, None)
    bias = weights.pop(names.REWARD_BIAS, None)
    if bias is not None and bool(bias.read().any()):
        _move_bias(model, weights, bias.read().double(), path)
    return dataclasses.replace(model, head="scalar", head_size=reward.shape[0], tie_embeddings=False)


def _move_bias(model: ModelConfig, weights: dict[str, LazyTensor], bias_n: Tensor, path: str) -> None:
    """Give the last norm's bias what makes the head add `bias_n`: its own scalar head has none. An RMSNorm has no bias
    to take it.
    """
    head_nh = weights[names.REWARD].read().double()
    by_h = torch.linalg.lstsq(head_nh, bias_n[:, None], driver="gelsd").solution[:, 0]
    norm = next((name for name in names.LAST_BIASES if name in weights), None)
    fits = torch.allclose(head_nh @ by_h, bias_n, rtol=1e-9, atol=1e-9)
    if norm is None or model.normalization != "LayerNorm" or not fits:
        raise ConfigError(
            "unsupported-model",
            f"{names.REWARD_BIAS} is not supported on a network of {model.normalization} (a head without a bias is)",
            found=printable(bias_n.tolist(), 200),
            where=path,
            kept="nothing was written",
        )
    weights[norm] = Moved(weights[norm], by_h)


def _drop_copies(model: ModelConfig, weights: dict[str, LazyTensor], path: str) -> None:
    """Leave out what is the embedding again; `DataError` where it is not."""
    if not model.tie_embeddings:
        return
    embedding = next((name for name in names.EMBEDDINGS if name in weights), None)
    for name in _COPIES:
        copy = weights.pop(name, None)
        if copy is not None and embedding is not None and not torch.equal(copy.read(), weights[embedding].read()):
            raise _wrong(path, f"the settings tie the embeddings, yet {name} and {embedding} differ")


def _cut(model: ModelConfig, weights: dict[str, LazyTensor], path: str) -> None:
    """Leave out the rows behind the ids of the tokenizer, which only fill the vocabulary up."""
    for name in (*names.EMBEDDINGS, *names.HEADS):
        if name not in weights:
            continue
        rows = weights[name].shape[0] if weights[name].shape else 0
        if rows < model.vocab_size:
            raise _wrong(path, f"the tokenizer has ids up to {model.vocab_size - 1:,}, {name} {rows:,} rows")
        weights[name] = FirstRows(weights[name], model.vocab_size)


def _wrong(path: str, what: str) -> DataError:
    return DataError("wrong-tensors", what, where=path, kept="nothing was written")


def _family(model: ModelConfig) -> str:
    """The Hugging Face family that computes the same; empty where none does."""
    try:
        return registry.of_model(model, None).name
    except QuiverError:
        return ""


def _compare(here: str, check: Check) -> CheckResult:
    if check == "on":
        raise ConfigError("no-check", f"logits cannot be compared: {_UNCOMPARED}", next="check=auto or check=off")
    return CheckResult(f"logits not compared: {_UNCOMPARED}", {"logits": "not compared"}, {"reason": _UNCOMPARED})
