r"""template.few_shot: examples with their answers before every question (Brown et al. 2020, arXiv:2005.14165).

user: Q1   assistant: A1   user: Q2   assistant: A2   user: the question         turns of a conversation
"Q1 A1\n\nQ2 A2\n\nthe question"                                                     one text
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from datakit.columns.conversations import flat, messages, starts, turn_column
from datakit.columns.examples import Examples, best
from datakit.columns.rejections import set_aside
from datakit.columns.seeded import text_keys
from datakit.op import Blend, Context, Result
from schemas import CHOICES, PROMPTS, TURN, Column, Schema, with_columns
from schemas.dataset import Dataset
from schemas.errors import ConfigError, DataError

Ints = npt.NDArray[np.int64]
_BATCH_ROWS = 8192
_IDS = Column("example_ids", pa.list_(pa.string()), "questions that stand before this one with their answers")


@dataclass(frozen=True, kw_only=True)
class FewShot(Blend):
    """The questions of the first input, behind `count` examples of the second with their `answer`: the text of that
    name, or the `best` of the choices.

    Which ones is a function of the run's seed and the question's id (`seeded`), or the `first` of the file; none is the
    question itself, or twice the same. With `alike` they share the question's value in that column. As `turns` they
    stand behind a system turn, else as one text, `lead` before an answer and `between` behind it. An example is one
    question of one turn with an answer: others are counted (`unusable`). A question with fewer goes as
    `too-few-examples`.
    """

    name: ClassVar[str] = "template.few_shot"
    loses_rows: ClassVar[bool] = True

    count: int
    choose: Literal["seeded", "first"] = "seeded"
    answer: Literal["answer", "best"] = "answer"
    alike: str = ""
    turns: bool = True
    lead: str = " "
    between: str = "\n\n"

    def __post_init__(self) -> None:
        if not 1 <= self.count <= 1000:
            raise ConfigError("bad-setting", f"{self.name}: count {self.count}", expected="1 to 1000",
                              kept="nothing was started")  # fmt: skip

    @property
    def takes(self) -> Schema:
        alike = [Column(self.alike, pa.string(), "what examples share", nullable=True)] if self.alike else []
        given = CHOICES.selecting("choices", "best") if self.answer == "best" else PROMPTS.selecting("answer")
        return Schema("asked", 1, (*PROMPTS.selecting("prompt_id", "messages").columns, *given.columns, *alike))

    def gives(self, *inputs: Schema) -> Schema:
        if len(inputs) != 2:
            raise ConfigError("bad-inputs", f"{self.name} got {len(inputs)} inputs", kept="nothing was started",
                              expected="the questions, and the examples")  # fmt: skip
        return inputs[0].adding(_IDS)

    def blend(self, inputs: Sequence[Dataset], ctx: Context) -> Iterator[Result]:
        """The questions in their order; `DataError` where there are fewer examples than `count`."""
        questions, given = inputs
        rows = given.read(columns=[*dict.fromkeys(self.takes.names)])
        answers = best(rows) if self.answer == "best" else flat(rows["answer"])
        examples = Examples.of(rows, answers, self.alike)
        if len(examples.ids) < self.count:
            raise DataError(
                "too-few-examples", f"{self.count} examples are to stand before each question",
                expected=f"{self.count} different questions of one turn with their answers",
                found=f"{len(examples.ids)} of {rows.num_rows} rows", where=given.url,
                kept="nothing of this output", next=f"--few-shot {len(examples.ids)}",
            )  # fmt: skip
        schema = self.gives(questions.schema, given.schema)
        yield Result(schema.empty(), counts={"unusable": float(rows.num_rows - len(examples.ids))})
        for shard in range(len(questions.shards)):
            for part in questions.batches(shard, _BATCH_ROWS):
                yield self._behind(part, examples, schema, ctx)

    def _behind(self, rows: pa.Table, examples: Examples, schema: Schema, ctx: Context) -> Result:
        lots = text_keys(rows["prompt_id"], ctx.seed, self.name) if self.choose == "seeded" else None
        there, place = examples.before(rows, self.alike, self.count, lots)
        goes = there < self.count
        few, value = rows.filter(pa.array(goes)), pa.array(there[goes].astype(np.float64))
        rejected = set_aside(few, "too-few-examples", value, str(self.count))
        rows, ends = rows.filter(pa.array(~goes)), pa.array(self.count * np.arange(len(place) + 1), pa.int32())
        ids = pa.ListArray.from_arrays(ends, examples.ids.take(pa.array(place.ravel())))
        asked = self._asked(flat(rows["messages"]), examples, place)
        return Result(schema.conform(with_columns(rows, {"messages": asked, _IDS.name: ids})), rejected)

    def _asked(self, given: pa.Array, examples: Examples, place: Ints) -> pa.Array:
        """The conversations, with the examples at `place` behind a system turn."""
        offsets, inner, count = starts(given), given.flatten(), len(place)
        system = np.append(np.asarray(pc.equal(inner.field("role"), "system"), bool), False)
        first = offsets[:-1] + system[offsets[:-1]]
        questions, answers = (texts.take(pa.array(place.ravel())) for texts in (examples.questions, examples.answers))
        if self.turns:
            shown = [turn_column("user", questions), turn_column("assistant", answers)]
            new = len(inner) + np.arange(place.size)[:, None] + np.array([0, place.size])
            order = np.insert(np.arange(len(inner)), np.repeat(first, 2 * self.count), new.ravel())
            ends = offsets + 2 * self.count * np.arange(count + 1)
            return messages(ends, pa.concat_arrays([inner, *shown]).take(pa.array(order)))
        texts = pc.binary_join_element_wise(questions, self.lead, answers, self.between, "")
        ends = pa.array(self.count * np.arange(count + 1), pa.int32())
        before = pc.binary_join(pa.ListArray.from_arrays(ends, texts), "")
        contents, mask = inner.field("content"), np.zeros(len(inner), bool)
        mask[first] = True
        whole = pc.binary_join_element_wise(before, contents.filter(pa.array(mask)), "")
        contents = pc.replace_with_mask(contents, pa.array(mask), whole)
        fields = [contents if field.name == "content" else inner.field(field.name) for field in TURN]
        return messages(offsets, pa.StructArray.from_arrays(fields, fields=list(TURN)))
