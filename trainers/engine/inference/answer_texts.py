"""What an answer is, whatever computes it: which prompts can have one, what ends it, what its text is.

Our own sampler decodes by it, and so do engines of other programs, so that the same tokens are the same answer. No
torch and no network. Legend: V ids of the vocabulary.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from schemas.end_tokens import EndTokens, TurnEnd, end_tokens
from schemas.errors import ConfigError, DataError

Ints: TypeAlias = npt.NDArray[np.int64]

_NO_LETTER = "\ufffd"
_BYTE = re.compile("<0x[0-9A-Fa-f]{2}>")


class AnswerTexts:
    """Answers of a model that knows `vocab_size` ids and reads `longest` tokens: the tokens `end_ids` and the texts
    `stop` end every one of them. `known` [V]: which ids have a token.
    """

    def __init__(
        self, tokenizer: Tokenizer, end_ids: Sequence[int], vocab_size: int, longest: int, stop: Sequence[str] = ()
    ) -> None:
        self.tokenizer, self.longest, self.stop = tokenizer, longest, tuple(stop)
        self.anchor = anchor(tokenizer)
        self.control = frozenset(tokenizer.get_added_tokens_decoder())
        self.known = with_token(tokenizer, vocab_size)
        self.ends = np.zeros(vocab_size, np.bool_)
        self.ends[[number for number in end_ids if number < vocab_size]] = True

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
        vocab_size = len(self.ends)
        if len(ids) == 0:
            return "the prompt has no token"
        if len(ids) >= self.longest:
            return f"the prompt has {len(ids)} tokens and the model reads {self.longest}: no room for an answer"
        if ids.min() < 0 or ids.max() >= vocab_size:
            return f"a token id of the prompt is not in 0 .. {vocab_size - 1}"
        return None

    def room(self, ids: Ints, most: int) -> int:
        """Tokens that an answer to the prompt `ids` may have: at most `most`, as far as the model reads."""
        return max(0, min(most, self.longest - len(ids)))


def with_token(tokenizer: Tokenizer, vocab_size: int) -> npt.NDArray[np.bool_]:
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
