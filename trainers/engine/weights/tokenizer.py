"""A tokenizer's files, from a Hugging Face folder or a tokenizer dataset into a checkpoint, and out again.

A checkpoint carries `tokenizer.json`, `tokenizer_config.json` (with chat template and special tokens) and
`generation_config.json` as text; export writes them as transformers and vLLM read them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from tokenizers import Tokenizer

from schemas.chat_template import ChatTemplate
from schemas.dataset import Dataset
from schemas.end_tokens import KEY, EndTokens, TurnEnd, end_tokens
from schemas.errors import ConfigError, DataError, printable
from schemas.manifest import Parent
from schemas.store.commit import read_manifest
from schemas.store.storage import shown
from schemas.tokenizer import (
    SPECIAL,
    TOKENIZERS,
    files_of,
    parsed,
    read_dataset,
    read_folder,
    row_of,
    tokenizer_identity,
)
from trainers.architecture import ModelConfig
from trainers.engine.checkpoint.checkpoint import Checkpoint, open_checkpoint
from trainers.engine.weights import padding
from trainers.engine.weights.folder import CONFIG, as_text, read_object, read_text

TOKENS, SETTINGS, GENERATION, TEMPLATE = (
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    "chat_template.jinja",
)
_KEYS = {name: f"{name}_id" for name in SPECIAL}

IDS = tuple(_KEYS.values())
"""The keys of config.json and generation_config.json that name special tokens."""


_UNREAD: dict[str, Any] = {
    **dict.fromkeys(("repetition_penalty", "encoder_repetition_penalty", "length_penalty", "typical_p"), 1),
    **dict.fromkeys(("num_beams", "guidance_scale"), 1),
    **dict.fromkeys(("no_repeat_ngram_size", "min_p", "min_length", "min_new_tokens", "penalty_alpha"), 0),
    **dict.fromkeys(("epsilon_cutoff", "eta_cutoff"), 0),
    **{name: [] for name in ("bad_words_ids", "suppress_tokens", "begin_suppress_tokens", "sequence_bias")},
}
"""Settings of generation beyond temperature, top_k and top_p, and the value at which each does nothing."""


@dataclass(frozen=True)
class TokenizerFiles:
    """A tokenizer's files by name, its identity, and the dataset it came from, if any."""

    files: Mapping[str, str]
    identity: str
    parents: tuple[Parent, ...] = field(default=())

    @property
    def facts(self) -> dict[str, str]:
        """What a manifest says of it; nothing if there is none."""
        return {"tokenizer": self.identity} if self.identity else {}


def of_folder(path: str) -> TokenizerFiles:
    """The tokenizer in a Hugging Face folder; `ConfigError` if it has no tokenizer.json."""
    if read_text(path, TOKENS) is None:
        raise ConfigError(
            "no-tokenizer",
            f"{shown(path)} has no {TOKENS}",
            found=", ".join(sorted(name for name in os.listdir(path) if "token" in name or "vocab" in name)) or "none",
            where=shown(path),
            kept="nothing was written",
            next="give a tokenizer dataset, or a folder that has one, with --tokenizer",
        )
    settings = read_object(path, SETTINGS)
    row = read_folder(path) or {}
    text = str(row.pop("tokenizer_json"))
    columns = {name: value for name, value in row.items() if value is not None}
    return TokenizerFiles({TOKENS: text, SETTINGS: as_text(settings | columns)}, tokenizer_identity(text, row))


def of_texts(texts: Mapping[str, str], where: str) -> TokenizerFiles:
    """The tokenizer of the files `texts` of a Hugging Face folder, by name."""
    row = row_of(texts, where)
    text = str(row.pop("tokenizer_json"))
    columns = {name: value for name, value in row.items() if value is not None}
    settings = parsed(texts.get(SETTINGS), where)
    return TokenizerFiles({TOKENS: text, SETTINGS: as_text(settings | columns)}, tokenizer_identity(text, row))


def of_dataset(url: str) -> TokenizerFiles:
    """The tokenizer in a dataset of one TOKENIZERS row."""
    dataset = Dataset.open(url)
    dataset.schema.requires(TOKENIZERS, "trainers.import_hf")
    row = read_dataset(dataset)
    return TokenizerFiles(
        files_of(row), tokenizer_identity(str(row["tokenizer_json"]), row), (dataset.as_parent("tokenizer"),)
    )


def of_checkpoint(source: Checkpoint) -> TokenizerFiles:
    """The tokenizer that a checkpoint carries; no files if it has none."""
    return TokenizerFiles(source.tokenizer_files(), str(source.manifest.facts.get("tokenizer", "")))


def at(place: str) -> TokenizerFiles:
    """The tokenizer at `place`: a dataset, a checkpoint, or a Hugging Face folder, one that was exported here too."""
    manifest = read_manifest(place)
    if manifest is not None and manifest.kind == "dataset":
        return of_dataset(place)
    if manifest is not None and manifest.kind == "checkpoint":
        made = of_checkpoint(open_checkpoint(place))
        return made if made.files else of_folder(place)
    return of_folder(place)


class Described(Protocol):
    """Another program's model, as far as it says something of its tokenizer."""

    path: str
    config: dict[str, Any]

    def json(self, name: str) -> dict[str, Any]:
        """A JSON object among its files; empty if there is no such file."""


def chosen(
    folder: Described,
    chosen_files: TokenizerFiles,
    wish: str | None,
    model: ModelConfig,
    say: Callable[[str], None] = print,
    taught: TurnEnd | None = None,
) -> TokenizerFiles:
    """The tokenizer that goes with the model of `folder`, `chosen_files`: its own or the one at `wish`; checked
    against the model.

    `pad_token_id` of config.json goes with the settings of generation; of a reward model it is what counts. So do all
    tokens that end an answer there. taught: how its chat template ends a turn.
    """
    own = opened(chosen_files.files[TOKENS], folder.path)
    largest = max(own.get_vocab(with_added_tokens=True).values(), default=-1)
    if largest >= model.vocab_size:
        raise DataError(
            "tokenizer-too-large",
            "the tokenizer has ids that the model has no row for",
            expected=f"ids below vocab_size {model.vocab_size}",
            found=f"{printable(own.id_to_token(largest))} has id {largest}",
            where=shown(wish or folder.path),
            kept="nothing was written",
        )
    files, generation = dict(chosen_files.files), folder.json(GENERATION)
    pad, passed_over = padding.wished(folder.config, model.vocab_size)
    if passed_over is not None:
        say(passed_over)
    if pad is not None and (model.head == "scalar" or generation.get(padding.PAD) is None):
        generation[padding.PAD] = pad
    config = {KEY: folder.config.get(KEY)}
    if unread := _unread(generation):
        say(f"{GENERATION} asks for {unread}: our sampler does not read these, an export keeps them")
    if wish is not None:  # a token that another tokenizer does not have is not read into it from the model's settings
        named = json.loads(files[SETTINGS])
        generation, config = (
            {k: v for k, v in given.items() if k not in IDS or named.get(k.removesuffix("_id"))}
            for given in (generation, config)
        )
    texts = {SETTINGS: files[SETTINGS], CONFIG: as_text(config), GENERATION: as_text(generation)}
    ends = end_tokens(texts, own.token_to_id, model.vocab_size, taught, folder.path)
    if line := ends.differences(own.id_to_token):
        say(line)
    generation = with_ends(generation, ends.only(CONFIG, GENERATION))
    if generation:
        files[GENERATION] = as_text(generation)
    return TokenizerFiles(files, chosen_files.identity, chosen_files.parents)


def _unread(generation: Mapping[str, Any]) -> str:
    """The settings of generation that would change what is drawn and that no sampler of ours has."""
    asked = {name: generation.get(name) for name, idle in _UNREAD.items() if generation.get(name) not in (None, idle)}
    return printable(", ".join(f"{name} {value}" for name, value in asked.items()), 300)


def with_ends(generation: Mapping[str, Any], ends: EndTokens) -> dict[str, Any]:
    """The settings of generation, with `ends` as what ends an answer."""
    rest = {name: value for name, value in generation.items() if name != KEY}
    return rest if ends.value is None else {**rest, KEY: ends.value}


def opened(text: str, where: str) -> Tokenizer:
    """The tokenizer of a tokenizer.json; `DataError` if it is none."""
    try:
        return Tokenizer.from_str(text)
    except Exception as error:  # the library raises Exception itself
        raise DataError(
            "bad-tokenizer",
            f"{TOKENS} cannot be read",
            found=printable(error, 200),
            where=shown(where),
            kept="nothing was written",
        ) from error


def ids(files: Mapping[str, str], where: str) -> dict[str, int]:
    """`bos_token_id`, `eos_token_id` and `pad_token_id`, as far as the tokenizer names the tokens."""
    own, settings = opened(files[TOKENS], where), json.loads(files.get(SETTINGS, "{}"))
    special = {}
    for name, key in _KEYS.items():
        token = settings.get(name)
        token = token.get("content") if isinstance(token, dict) else token
        number = own.token_to_id(token) if isinstance(token, str) else None
        if number is not None:
            special[key] = number
    return special


def exported(files: Mapping[str, str], where: str, learnt: ChatTemplate) -> dict[str, str]:
    """The files of an exported folder: settings that name a class, the chat template (that which the weights have
    `learnt`, over the tokenizer's own) as a file too, generation.
    """
    if TOKENS not in files:
        return {}
    settings = json.loads(files.get(SETTINGS, "{}"))
    settings.setdefault("tokenizer_class", "PreTrainedTokenizerFast")
    own = settings.get("chat_template")
    template = learnt.jinja(own if isinstance(own, str) else None)
    if template is not None:
        settings["chat_template"] = template
    generation = json.loads(files.get(GENERATION, "{}"))
    if not generation.keys() - {padding.PAD, KEY}:
        generation = {"_from_model_config": True, **ids(files, where), **generation}
    out = {TOKENS: files[TOKENS], SETTINGS: as_text(settings), GENERATION: as_text(generation)}
    if template is not None:
        out[TEMPLATE] = template
    return out
