"""label.attribute_values: label strings of NeMo-Aligner's files to a list in a fixed order, or a reason why not."""

from __future__ import annotations

import pyarrow as pa
import pytest

from datakit.label import AttributeValues
from datakit.op import Context
from tests.datakit.fakes import Example

NAMES = ("quality", "toxicity", "verbosity")


def table(texts: list[str | None]) -> pa.Table:
    return pa.table({"attribute_text": pa.array(texts, pa.string())})


EXAMPLES = [Example(AttributeValues(names=NAMES), (table(["verbosity:1,quality:4", None, *["toxicity:0"] * 10]),))]


def read(*texts: str | None) -> tuple[list[list[float | None]], list[str]]:
    made = AttributeValues(names=NAMES).label(table(list(texts)), Context())
    return made.columns["attributes"].to_pylist(), made.kept.reason.to_pylist()


def test_numbers_stand_where_their_names_do() -> None:
    values, reasons = read("quality:4,toxicity:0", "verbosity:2,quality:1", None, "", "quality:-3", " toxicity : 2.5 ")
    assert values == [[4, 0, None], [1, None, 2], [None] * 3, [None] * 3, [-3, None, None], [None, 2.5, None]]
    assert reasons == [""] * 6


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("quality", "no-attribute-text"),
        ("quality:4,", "no-attribute-text"),
        ("quality:many", "no-attribute-text"),
        ("quality:nan", "no-attribute-text"),
        ("quality:4 toxicity:0", "no-attribute-text"),
        ("quality:" + "9" * 400, "no-attribute-text"),
        ("humor:1", "unknown-attribute"),
        ("Quality:1", "unknown-attribute"),
        ("quality:1,toxicity:0,quality:1", "attribute-twice"),
    ],
)
def test_what_cannot_be_read_goes_with_its_reason(text: str, reason: str) -> None:
    values, reasons = read("quality:1", text, "quality:2")
    assert reasons == ["", reason, ""] and values[0] == [1, None, None] and values[2] == [2, None, None]
