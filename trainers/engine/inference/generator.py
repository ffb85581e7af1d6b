"""A policy that answers prompts: tables in, tables out, over a checkpoint.

`open_generator(checkpoint).generate(rows, sampling, seeds)` fits datakit's `Generator` protocol without
knowing it. What a call returns is a function of the weights, its rows, the sampling settings and the seeds:
batches are composed from the rows alone and every draw has its own random number (`token_sampling`).
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from tokenizers import Tokenizer

from schemas.end_tokens import EndTokens, TurnEnd, end_tokens
from schemas.errors import ConfigError, DataError
from schemas.rows.conversation import IDS
from trainers.engine.checkpoint import checkpoint as checkpoints
from trainers.engine.checkpoint.checkpoint import Checkpoint
from trainers.engine.inference import token_sampling
from trainers.engine.inference.decode import Answers, Decoder, Ints, Prompt
from trainers.engine.inference.frozen import open_network
from trainers.engine.megatron.model import Network

_NO_LETTER = "\ufffd"
_BYTE = re.compile("<0x[0-9A-Fa-f]{2}>")


class Sampling(Protocol):
    """How answers are drawn; see `token_sampling.Distribution` for the first four. `stop` are texts that end an
    answer.
    """

    @property
    def temperature(self) -> float: ...
    @property
    def top_k(self) -> int: ...
    @property
    def top_p(self) -> float: ...
    @property
    def greedy(self) -> bool: ...
    @property
    def samples_per_prompt(self) -> int: ...
    @property
    def max_new_tokens(self) -> int: ...
    @property
    def stop(self) -> Sequence[str]: ...


class Generator:
    """Draws answers from `network`; the tokens `end_ids` and the texts `stop` end an answer, `batch_size` answers are
    decoded at once.
    """

    def __init__(
        self,
        network: Network,
        tokenizer: Tokenizer,
        end_ids: Sequence[int],
        *,
        stop: Sequence[str] = (),
        batch_size: int = 512,
        refill: bool = True,
    ) -> None:
        self.network, self.tokenizer, self.batch_size, self.refill = network, tokenizer, batch_size, refill
        self.anchor = anchor(tokenizer)
        self.control = frozenset(tokenizer.get_added_tokens_decoder())
        self.ends = np.zeros(network.architecture.vocab_size, np.bool_)
        self.ends[[number for number in end_ids if number < len(self.ends)]] = True
        drawable = _with_token(tokenizer, len(self.ends)) | self.ends
        self.barred_V = None if drawable.all() else torch.from_numpy(~drawable)
        self.stop = tuple(stop)

    def generate(self, rows: pa.Table, sampling: Sampling, seeds: npt.NDArray[np.uint64]) -> pa.Table:
        """`sampling.samples_per_prompt` answers to each of `rows["prompt_ids"]`, prompt by prompt.

        Columns: `prompt_row`, `sample_index`, `response_ids` (the end token included), `response` (end token
        and stop text left out), `logprobs` (nats, of the policy at temperature 1 with nothing cut, over all
        ids of the model, whatever was drawn from: what reading the answer once more gives), `finish_reason`
        ("stop", "length") and `error`, which says why a row has no answer and is null elsewhere. An id that
        has no token is never drawn.
        """
        prompts = [np.asarray(ids, np.int64) for ids in rows["prompt_ids"].to_pylist()]
        faults = [self.fault(ids) for ids in prompts]
        each = sampling.samples_per_prompt
        longest = self.network.architecture.max_sequence_length
        rooms = np.array([max(0, min(sampling.max_new_tokens, longest - len(ids))) for ids in prompts], np.int64)
        stops = self.stop_texts(sampling.stop)
        inside_j = np.array([self.goes_on_inside(ids) for ids in prompts], np.bool_)
        inside_j = inside_j.repeat(each)
        decoder = Decoder(
            self.network,
            token_sampling.Distribution(sampling.temperature, sampling.top_k, sampling.top_p, sampling.greedy),
            rows=max(1, self.batch_size),
            streams_j=token_sampling.streams(
                np.asarray(seeds, np.uint64).repeat(each), np.tile(np.arange(each), len(prompts))
            ),
            rooms_j=rooms.repeat(each),
            ended=lambda answer, answers: _ended(answer, answers, inside_j, stops),
            refill=self.refill,
            barred_V=self.barred_V,
        )
        order = sorted((i for i, fault in enumerate(faults) if fault is None), key=lambda i: -len(prompts[i]))
        part = min(each, self.batch_size)
        units = [
            Prompt(prompts[i], i * each + first, min(part, each - first))
            for i in order
            for first in range(0, each, part)
        ]
        return _table(decoder.run(units), faults, each, inside_j, stops)

    def stop_texts(self, texts: Sequence[str], ids: Sequence[int] = ()) -> StopTexts:
        """What ends an answer: these texts and ids beside those that end every answer of the model."""
        ends = self.ends.copy()
        ends[[number for number in ids if 0 <= number < len(ends)]] = True
        return StopTexts(self.tokenizer, (*texts, *self.stop), ends, self.anchor)

    def goes_on_inside(self, ids: Ints) -> bool:
        """Whether an answer to the prompt `ids` goes on behind plain text."""
        return len(ids) > 0 and int(ids[-1]) not in self.control

    def fault(self, ids: Ints) -> str | None:
        """Why the prompt `ids` can have no answer; None where it can."""
        longest, vocab_size = self.network.architecture.max_sequence_length, len(self.ends)
        if len(ids) == 0:
            return "the prompt has no token"
        if len(ids) >= longest:
            return f"the prompt has {len(ids)} tokens and the model reads {longest}: no room for an answer"
        if ids.min() < 0 or ids.max() >= vocab_size:
            return f"a token id of the prompt is not in 0 .. {vocab_size - 1}"
        return None


def _ended(answer: Ints, answers: Answers, inside_j: npt.NDArray[np.bool_], stops: StopTexts) -> npt.NDArray[np.bool_]:
    last = answers.ids[answer, answers.counts[answer] - 1]
    ended: npt.NDArray[np.bool_] = stops.ends[last]
    for at in np.flatnonzero(stops.may_end[last] & ~ended):
        number = answer[at]
        ended[at] = stops.ends_in(answers.ids[number, : answers.counts[number]], bool(inside_j[number]))
    return ended


def _table(
    answers: Answers, faults: Sequence[str | None], each: int, inside_j: npt.NDArray[np.bool_], stops: StopTexts
) -> pa.Table:
    total = len(answers.counts)
    drawn = np.arange(answers.ids.shape[1]) < answers.counts[:, None]
    offsets = pa.array(np.concatenate([[0], np.cumsum(answers.counts)]), pa.int32())
    error = [fault for fault in faults for _ in range(each)]
    wrong = pa.array([fault is not None for fault in error], pa.bool_())
    reasons = np.where(answers.stopped, "stop", "length")
    ids = pa.ListArray.from_arrays(offsets, pa.array(answers.ids[drawn], pa.int32()), type=IDS)
    kind = pa.list_(pa.float32())
    columns = {
        "prompt_row": pa.array(np.arange(total) // max(1, each), pa.int32()),
        "sample_index": pa.array(np.arange(total) % max(1, each), pa.int32()),
        "response_ids": ids,
        "response": pa.array(_texts(answers, inside_j, stops), pa.string()),
        "logprobs": pa.ListArray.from_arrays(offsets, pa.array(answers.logprobs[drawn], pa.float32()), type=kind),
        "finish_reason": pa.array(np.where(wrong.to_numpy(zero_copy_only=False), "error", reasons), pa.string()),
        "error": pa.array(error, pa.string()),
    }
    return pa.table(columns)


def _texts(answers: Answers, inside_j: npt.NDArray[np.bool_], stops: StopTexts) -> list[str]:
    drawn = [row[:count].tolist() for row, count in zip(answers.ids, answers.counts.tolist(), strict=True)]
    return stops.answer_texts(drawn, answers.stopped.tolist(), inside_j.tolist())


def _with_token(tokenizer: Tokenizer, vocab_size: int) -> npt.NDArray[np.bool_]:
    """Which of a model's ids have a token, [V]: embeddings are often padded beyond the tokenizer, or it has gaps.

    `ConfigError` where none has.
    """
    ids = np.fromiter(tokenizer.get_vocab(with_added_tokens=True).values(), np.int64)
    known = np.zeros(vocab_size, np.bool_)
    known[ids[ids < vocab_size]] = True
    if not known.any():
        raise ConfigError("no-tokens", f"none of the model's {vocab_size} ids has a token in its tokenizer")
    return known


def anchor(tokenizer: Tokenizer) -> tuple[list[int], str]:
    """Ids to decode in front of an answer, and their text, which is cut off again; none where it makes no difference.

    SentencePiece's decoders take the blank off the beginning of a text. Where an answer goes on behind plain text, a
    blank that was drawn belongs to it: without it its tokens would not come back when it is tokenized to be learnt.
    """
    decoder = _decoder(tokenizer)
    if any(f'"{kind}"' in decoder for kind in ("Metaspace", "Strip")):
        for letter in "aeiotnshrdl":
            number = tokenizer.token_to_id(letter)
            if number is not None and tokenizer.decode([number, number]) == 2 * letter:
                return [number], letter
    return [], ""


def _decoder(tokenizer: Tokenizer) -> str:
    return json.dumps(json.loads(tokenizer.to_str()).get("decoder"))


class StopTexts:
    """Texts that end an answer. `may_end` [V] marks the tokens after which one can be complete.

    A text that is a special token's ends an answer by its id, as those of `ends` [V] do: decoded text never shows it.
    `start` is what `anchor` gives: an answer is looked through as the text that it becomes.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        texts: tuple[str, ...],
        ends: npt.NDArray[np.bool_],
        start: tuple[list[int], str] = ([], ""),
    ) -> None:
        special = {t.content: i for i, t in tokenizer.get_added_tokens_decoder().items() if t.special}
        numbers, self.silent = [special[text] for text in texts if text in special], frozenset(special.values())
        vocab_size, known = len(ends), {tokenizer.id_to_token(int(number)) for number in np.flatnonzero(ends)}
        texts = tuple(text for text in texts if text not in special and text not in known)
        self.tokenizer, self.texts, self.ends, self.start = tokenizer, texts, ends.copy(), start
        self.ends[[number for number in numbers if number < vocab_size]] = True
        self.spells_bytes = '"ByteFallback"' in _decoder(tokenizer)
        self.tail = max((len(text.encode()) for text in texts), default=0) + 4
        self.may_end = np.zeros(vocab_size, np.bool_)
        if texts:
            lasts = {text[-1] for text in texts}
            blank = any(last.isspace() for last in lasts)
            for number, text in enumerate(tokenizer.decode_batch([[i] for i in range(vocab_size)])):
                self.may_end[number] = blank or not text or _NO_LETTER in text or not lasts.isdisjoint(text)

    def texts_of(self, answers: Sequence[list[int]], inside: Sequence[bool]) -> list[str]:
        """The text of each answer's ids; `inside`: whether it goes on behind plain text, so that a blank at its
        beginning counts.
        """
        first, lead = self.start
        rows = [[*first, *ids] if within else ids for ids, within in zip(answers, inside, strict=True)]
        texts = [self.mended(*pair) for pair in zip(rows, self.tokenizer.decode_batch(rows), strict=True)]
        return [text[len(lead) :] if within else text for text, within in zip(texts, inside, strict=True)]

    def answer_texts(self, answers: Sequence[list[int]], stopped: Sequence[bool], inside: Sequence[bool]) -> list[str]:
        """The texts of whole answers, without the token that ended one and what stands from a stop text on."""
        kept = [
            ids[:-1] if by_end and self.ends[ids[-1]] else ids for ids, by_end in zip(answers, stopped, strict=True)
        ]
        return [self.cut(text) for text in self.texts_of(kept, inside)]

    def ends_in(self, ids: npt.NDArray[np.int32], inside: bool = False) -> bool:
        """Whether an answer of these ids, which goes on behind plain text or not, contains one of the texts."""
        first, lead = self.start
        near = self.tokenizer.decode([*first, *ids[-self.tail :].tolist()])[len(lead) :]
        if _NO_LETTER in near:  # where it begins inside a letter of several byte tokens, all around it is lost
            near += "".join(self.tokenizer.decode(ids[-self.tail - more :].tolist()) for more in (1, 2, 3))
        if not any(text in near for text in self.texts):
            return False
        [whole] = self.texts_of([ids.tolist()], [inside])
        return self.cut(whole) != whole

    def mended(self, ids: list[int], text: str) -> str:
        """`text` of `ids` with the letters before one that is cut at the end: of SentencePiece's byte tokens the
        library gives up a whole run for it.
        """
        for cut in (1, 2, 3) if self.spells_bytes and text.endswith(_NO_LETTER) else ():
            shorter: str = self.tokenizer.decode(ids[:-cut], skip_special_tokens=True)
            if not shorter.endswith(_NO_LETTER):
                return shorter + _NO_LETTER
        return text

    def open_bytes(self, ids: Sequence[int]) -> int:
        """How many tokens at the end are a run of single bytes, whose text is known when it is over, those without any
        text among them; 0 where every token's text stays.
        """
        back = reversed(ids) if self.spells_bytes else ()
        return sum(1 for _ in itertools.takewhile(self._is_open, back))

    def _is_open(self, number: int) -> bool:
        token = self.tokenizer.id_to_token(number)
        return token is None or number in self.silent or _BYTE.fullmatch(token) is not None

    def cut(self, answer: str) -> str:
        """`answer` up to the first of the texts."""
        places = [place for text in self.texts if (place := answer.find(text)) >= 0]
        return answer[: min(places)] if places else answer


def open_generator(checkpoint: str | Checkpoint, *, batch_size: int = 512, **how: Any) -> Generator:
    """A generator over the policy in `checkpoint`. how: settings of `open_network`.

    `ConfigError` for a checkpoint without a tokenizer or with a scalar head.
    """
    source = checkpoints.open_checkpoint(checkpoint) if isinstance(checkpoint, str) else checkpoint
    if source.model.head != "lm":
        raise ConfigError(
            "no-language-model", "the checkpoint is no policy", found="a scalar head", where=source.folder
        )
    tokenizer, ends = load_tokenizer(source)
    return Generator(open_network(source, **how), tokenizer, ends.ids, stop=ends.texts, batch_size=batch_size)


def load_tokenizer(source: Checkpoint) -> tuple[Tokenizer, EndTokens]:
    """The tokenizer in a checkpoint, and what ends an answer (`schemas.end_tokens`)."""
    taught = TurnEnd.of(source.manifest.facts)
    return read_tokenizer(source.tokenizer_files(), taught, source.model.vocab_size, source.folder)


def read_tokenizer(
    files: Mapping[str, str], taught: TurnEnd, vocab_size: int, where: str
) -> tuple[Tokenizer, EndTokens]:
    """The tokenizer in `files`, by name as a checkpoint holds them, and what ends an answer of a model of that size."""
    text = files.get("tokenizer.json")
    if text is None:
        raise ConfigError("no-tokenizer", "the checkpoint has no tokenizer", expected="tokenizer.json", where=where)
    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:
        raise DataError("bad-tokenizer", "the checkpoint's tokenizer cannot be read", found=str(error)[:80]) from error
    return tokenizer, end_tokens(files, tokenizer.token_to_id, vocab_size, taught, where)
