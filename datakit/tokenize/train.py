"""Train a byte-level BPE vocabulary on text columns, with control tokens and a chat template: a tokenizer as
a dataset.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa

from datakit.columns.conversations import flat
from datakit.op import Context, GatherAll, Result, Size
from datakit.templating.named import TEMPLATES, TURN_MARKS
from datakit.templating.rendering import check_template
from datakit.tokenizers.making import MakesTokenizer
from datakit.tokenizers.tokenizer import Tokenizer
from schemas import MESSAGES, TOKENIZERS, Column, Schema
from schemas.dataset import Dataset
from schemas.errors import ConfigError

_BYTES = 256
_MOST_TOKENS = 1 << 24
_ROWS = 8192


@dataclass(frozen=True, kw_only=True)
class Train(MakesTokenizer, GatherAll):
    """One TOKENIZERS row of `vocab_size` tokens at most, learnt from `columns` (strings, and `messages`'
    contents).

    Control tokens come first: bos, eos, pad and `marks`; then the 256 bytes; then merges. `split_digits`
    makes every digit a token of its own. `template` is a template's name or Jinja source. The same rows give
    the same tokenizer.
    """

    name: ClassVar[str] = "tokenize.train"
    older_names: ClassVar[Mapping[str, str]] = {"vocabulary": "tokenizer_name"}

    columns: tuple[str, ...] = ("messages",)
    vocab_size: int = 512
    tokenizer_name: str = "bpe"
    bos: str = "<|bos|>"
    eos: str = "<|end|>"
    pad: str = "<|pad|>"
    marks: tuple[str, ...] = TURN_MARKS
    template: str = "plain"
    split_digits: bool = True
    min_frequency: int = 2

    def __post_init__(self) -> None:
        check_template(self.name, self.template)
        least = len(self._control) + _BYTES
        if self.vocab_size < least:
            message = f"{self.name}: vocab_size {self.vocab_size} has no room for {least} control tokens and bytes"
            raise ConfigError("bad-setting", message, expected=f"at least {least}", kept="nothing was started")
        if self.vocab_size > _MOST_TOKENS:
            message = f"{self.name}: vocab_size {self.vocab_size} is beyond any tokenizer"
            raise ConfigError("bad-setting", message, expected=f"at most {_MOST_TOKENS:,}", kept="nothing was started")

    @property
    def most_tokens(self) -> int:
        return self.vocab_size

    @property
    def takes(self) -> Schema:
        kinds = {name: MESSAGES if name == "messages" else pa.string() for name in self.columns}
        return Schema("texts", 1, tuple(Column(name, kind, "text to learn from") for name, kind in kinds.items()))

    def gives(self, *inputs: Schema) -> Schema:
        return TOKENIZERS

    def grown(self, given: Size) -> Size:
        return Size(1, self.vocab_size * 64.0)

    def gather_all(self, dataset: Dataset, ctx: Context) -> Iterator[Result]:
        tokenizer = self._untrained()
        tokenizer.train_from_iterator(self._texts(dataset), trainer=self._trainer())
        text = tokenizer.to_str(pretty=False)
        template = TEMPLATES.get(self.template, self.template)
        yield Result(Tokenizer(self.tokenizer_name, text, template, self.bos, self.eos, self.pad).row)

    @property
    def _control(self) -> list[str]:
        return list(dict.fromkeys((self.bos, self.eos, self.pad, *self.marks)))

    def _untrained(self) -> Any:
        from tokenizers import Tokenizer as Own
        from tokenizers import decoders, models, pre_tokenizers

        tokenizer = Own(models.BPE())
        bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        digits = [pre_tokenizers.Digits(individual_digits=True)] if self.split_digits else []
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*digits, bytes_])
        tokenizer.decoder = decoders.ByteLevel()
        return tokenizer

    def _trainer(self) -> Any:
        from tokenizers import AddedToken, pre_tokenizers, trainers

        return trainers.BpeTrainer(
            vocab_size=self.vocab_size,
            min_frequency=self.min_frequency,
            show_progress=False,
            special_tokens=[AddedToken(token, special=True, normalized=False) for token in self._control],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        )

    def _texts(self, dataset: Dataset) -> Iterator[list[str]]:
        for shard in range(len(dataset.shards)):
            for rows in dataset.batches(shard, _ROWS, list(self.columns)):
                for name in self.columns:
                    column = flat(rows[name])
                    texts = column.flatten().field("content") if name == "messages" else column
                    yield texts.to_pylist()
