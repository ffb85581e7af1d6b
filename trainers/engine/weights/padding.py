"""The token that fills a batch in an exported reward model.

transformers' ...ForSequenceClassification reads a row's score at its rightmost token that is not `pad_token_id`. So the
token that fills must never be the one that a text ends with: where it is the end token, the score is read one token too
early. The engine needs no such token (its batches are packed), so a checkpoint may well come without one.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from schemas.tokenizer import SETTINGS, TOKENS, ids_of, parsed, with_added
from trainers.architecture import ModelConfig
from trainers.engine.weights.folder import as_text

PAD = "pad_token_id"
_NEW = "<|pad|>"
_MARK = re.compile(r"[<\[].+[>\]]")
_SPARE = re.compile(r"reserved|unused", re.IGNORECASE)


@dataclass(frozen=True)
class Padding:
    """The id that fills a batch (None: nothing can), the tokenizer's files that name its token, and why, if that has
    to be known.
    """

    number: int | None
    files: Mapping[str, str]
    note: str | None = None


def wished(config: Mapping[str, Any], vocab_size: int) -> tuple[int | None, str | None]:
    """`pad_token_id` of a config.json where it names a row of the embedding; why it is passed over, if it is."""
    number = config.get(PAD)
    if number is None or (type(number) is int and number == -1):
        return None, None
    if type(number) is int and 0 <= number < vocab_size:
        return number, None
    return None, f"{PAD} of config.json is no id below vocab_size {vocab_size}: left out"


def ends_of(*configs: Mapping[str, Any]) -> set[int]:
    """Every id that `eos_token_id` of these settings names, one or a list."""
    ends: set[int] = set()
    for settings in configs:
        value = settings.get("eos_token_id")
        ends |= {number for number in (value if isinstance(value, list) else [value]) if isinstance(number, int)}
    return ends


def chosen(files: Mapping[str, str], wish: int | None, ends: Collection[int], model: ModelConfig) -> Padding:
    """The padding of a reward model: the tokenizer's or `wish` where no text ends in it, else the best there is.

    files: the tokenizer's, by name. ends: ids that end a text.
    """
    settings, ids = parsed(files.get(SETTINGS), SETTINGS), ids_of(files[TOKENS])
    texts = {number: text for text, number in ids.items()}
    own = _content(settings.get("pad_token"))
    given = [number for number in (ids.get(own or ""), wish) if number is not None]
    if usable := [number for number in given if number not in ends]:
        return Padding(usable[0], _naming(files, settings, own, texts.get(usable[0])))
    reason = f"{PAD} {given[0]} is an end token, whose score would be passed over" if given else f"no {PAD} is named"
    for number in _candidates(files, settings, ids, model):
        if number not in ends and 0 <= number < model.vocab_size:
            text = texts.get(number, _NEW)
            if number not in texts:
                files = {**files, TOKENS: with_added(files[TOKENS], {str(number): {"content": _NEW, "special": True}})}
            return Padding(number, _naming(files, settings, own, text), f"{reason}: batches are filled with {text}")
    unnamed = {**files, SETTINGS: as_text({name: value for name, value in settings.items() if name != "pad_token"})}
    return Padding(None, unnamed, f"{reason}, and no token can fill a batch: transformers scores one row at a time")


def _candidates(
    files: Mapping[str, str], settings: Mapping[str, Any], ids: Mapping[str, int], model: ModelConfig
) -> Iterator[int]:
    """Ids that could fill a batch, best first: those that no text holds, then those that no text should end in."""
    data = parsed(files[TOKENS], TOKENS)
    network = data.get("model") or {}
    special = [str(token["content"]) for token in data.get("added_tokens") or [] if token.get("special")]
    unknown = ids.get(str(network.get("unk_token")))
    yield from (ids[text] for text in special if "pad" in text.lower())
    if unknown is not None and network.get("byte_fallback"):
        yield unknown
    yield from (ids[text] for text in special if _SPARE.search(text))
    following = max(ids.values(), default=-1) + 1
    if following < model.vocab_size and following == len(set(ids.values())) and _NEW not in ids:
        yield following
    begin = _content(settings.get("bos_token"))
    if begin is not None and begin in ids:
        yield ids[begin]
    if unknown is not None:
        yield unknown


def _naming(files: Mapping[str, str], settings: Mapping[str, Any], own: str | None, text: str | None) -> dict[str, str]:
    """The files with `text` as padding; with none where naming it would change how texts are cut."""
    if text is None or text == own:
        return dict(files)
    added = {token.get("content") for token in parsed(files[TOKENS], TOKENS).get("added_tokens") or []}
    rest = {name: value for name, value in settings.items() if name != "pad_token"}
    named = {"pad_token": text} if text in added or _MARK.fullmatch(text) else {}
    return {**files, SETTINGS: as_text(rest | named)}


def _content(token: Any) -> str | None:
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else None
