"""tokenize.prompt_template: rows filled into a text with placeholders, as NeMo-Aligner does it for prompt-response
data: every part tokenized for itself, too long rows shortened field by field.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from datakit.columns.conversations import flat
from datakit.op import Context, FilterDecision, Label, LabelResult, Size
from datakit.templating.filled import Parts, cuts, laid_out, texts_of
from datakit.tokenize.encode import as_lists, check_length, tokenizer_of
from schemas import MESSAGES, TOKENS, Column, Schema
from schemas.errors import ConfigError, printable


@dataclass(frozen=True, kw_only=True)
class PromptTemplate(Label):
    """Adds `input_ids`, `loss_mask` and `truncated` (tokens cut out of fields) of rows filled into `template`, which
    ends in the answer's placeholder; `sample_id` where rows go by another id.

    `columns` say which column a placeholder stands for; of `messages` that is the text of the one user turn. Texts lose
    blanks around them. Rows over `max_length` lose the excess in equal shares out of `truncation_fields`, in the
    template's order and the first ones one token more, on their `truncation_side`; what is still too long is rejected
    (NeMo-Aligner cuts the answer). `answer_only_loss`: the answer and the end token are learnt, otherwise all tokens.
    `add_bos`, `separator` (a control token before the answer) and `add_eos` as there.
    """

    name: ClassVar[str] = "tokenize.prompt_template"
    needs: ClassVar[tuple[str, ...]] = ("tokenizer",)
    makes: ClassVar[tuple[Mapping[str, Any], ...]] = ()  # who wants it says so: a chat template is what others mean

    template: str = "{input} {output}"
    columns: Mapping[str, str] | tuple[tuple[str, str], ...] = (("input", "messages"), ("output", "response"))
    answer_only_loss: bool = True
    max_length: int | None = None
    truncation_fields: tuple[str, ...] = ("input",)
    truncation_side: Literal["right", "left"] = "right"
    add_bos: bool = False
    separator: str | None = None
    add_eos: bool = True
    id_column: str = "sample_id"

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", tuple(sorted(dict(self.columns).items())))
        check_length(self.name, self.max_length)
        keys = self._parts.keys
        unknown = [key for key in self.truncation_fields if key not in keys]
        if not keys or not keys[-1] or unknown:
            why = f"no placeholder {printable(unknown[0])}" if unknown else "the template does not end in a placeholder"
            raise ConfigError(
                "bad-setting",
                f"{self.name}: {why}",
                expected="such as {input} {output}",
                found=printable(self.template),
            )

    @property
    def _parts(self) -> Parts:
        return Parts(self.template, dict(self.columns))

    @property
    def takes(self) -> Schema:
        names = dict.fromkeys(self._parts.column(key) for key in self._parts.keys if key)
        texts = [
            Column(n, MESSAGES if n == "messages" else pa.string(), "what a placeholder stands for") for n in names
        ]
        return Schema("filled", 1, (Column(self.id_column, pa.string(), "the row's id"), *texts))

    @property
    def adds(self) -> tuple[Column, ...]:
        names = ("input_ids", "loss_mask") if self.id_column == "sample_id" else ("sample_id", "input_ids", "loss_mask")
        return (*(TOKENS[name] for name in names), Column("truncated", pa.int32(), "tokens cut out of its fields"))

    def grown(self, given: Size) -> Size:
        return given.wider(1.9)

    def label(self, rows: pa.Table, ctx: Context) -> LabelResult:
        """The columns; rows that are too long, teach nothing or ask more than one question go."""
        parts, tokenizer = self._parts, tokenizer_of(ctx)
        encoded = [parts.encoded(at, rows, tokenizer) for at in range(len(parts.texts))]
        bos, sep, eos = ends = self._ends(tokenizer)
        added = len(bos) + len(sep) + len(eos)
        lengths = np.array([part.lengths for part in encoded]).reshape(len(encoded), rows.num_rows)
        limit = np.inf if self.max_length is None else self.max_length
        excess = np.maximum(lengths.sum(axis=0) + added - limit, 0).astype(np.int64) if self.max_length else 0
        fields = [at for at, key in enumerate(parts.keys) if key in self.truncation_fields]
        cut = cuts(lengths, fields, np.broadcast_to(excess, rows.num_rows))
        total = (lengths - cut).sum(axis=0) + added
        before = total - (lengths - cut)[-1] - len(eos)
        offsets = np.concatenate([[0], np.cumsum(total)])
        place = np.arange(offsets[-1]) - np.repeat(offsets[:-1], total)
        trained = place >= np.maximum(np.repeat(before, total), 1) if self.answer_only_loss else place > 0
        nothing = total <= (np.maximum(before, 1) if self.answer_only_loss else 1)
        several = np.any([texts_of(rows, parts.column(key))[1] for key in parts.keys if key], axis=0)
        faults = np.where(several, "several-turns", np.where(total > limit, "too-long", ""))
        faults = np.where((faults == "") & nothing, "no-trained-token", faults)
        made = {
            "input_ids": as_lists(laid_out(encoded, cut, self.truncation_side == "left", ends), offsets),
            "loss_mask": as_lists(trained.astype(np.int8), offsets),
            "truncated": pa.array(cut.sum(axis=0), pa.int32()),
        }
        if self.id_column != "sample_id":
            made["sample_id"] = flat(rows[self.id_column])
        kept = FilterDecision(
            pa.array(faults == ""), pa.array(faults.tolist(), pa.string()), pa.array(total.astype(np.float64)),
            f"{self.max_length} tokens",
        )  # fmt: skip
        return LabelResult(made, kept)

    def _ends(self, tokenizer: Any) -> tuple[list[int], list[int], list[int]]:
        """What opens a row, stands before its answer, and closes it."""
        bos, eos = tokenizer.bos_token if self.add_bos else "", tokenizer.eos_token if self.add_eos else ""
        numbers = []
        for name, token in (("begin", bos), ("separator", self.separator or ""), ("end", eos)):
            number = None if token == "" else tokenizer.id_of(token)
            if number is None and token != "":
                raise ConfigError(
                    "no-token", f"{self.name}: the tokenizer has no {name} token", kept="nothing was started"
                )
            numbers.append([] if number is None else [number])
        return numbers[0], numbers[1], numbers[2]
