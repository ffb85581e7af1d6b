"""label.attribute_text: NeMo-Aligner's label strings, its clamp and its rounding (Python's), nine in its order."""

from __future__ import annotations

import random

import pyarrow as pa
import pytest

from datakit.apply import apply
from datakit.label import AttributeText, AttributeValues
from datakit.op import Context, LabelResult
from schemas import STEERLM_ATTRIBUTES
from schemas.errors import ConfigError, DataError
from tests.datakit.fakes import Example

LISTS = pa.list_(pa.float64())


def table(rows: list[list[float | None]]) -> pa.Table:
    return AttributeText().takes.conform(pa.table({"attributes": pa.array(rows, LISTS)}))


def texts(rows: list[list[float | None]], **settings: object) -> list[str | None]:
    made = AttributeText(**settings).label(table(rows), Context())  # type: ignore[arg-type]
    assert isinstance(made, LabelResult) and all(made.kept.keep.to_pylist())
    return made.columns["attribute_text"].to_pylist()


EXAMPLES = [
    Example(AttributeText(), (table([[float(n % 5)] * 9 for n in range(12)]),)),
    Example(AttributeText(names=("a", "b"), output="asked"), (table([[n / 3, None] for n in range(12)]),)),
]


def test_the_string_of_nine_attributes() -> None:
    ideal = [4, 0, 0, 0, 4, 4, 4, 4, 4]
    assert texts([ideal]) == [
        "quality:4,toxicity:0,humor:0,creativity:0,helpfulness:4,correctness:4,coherence:4,complexity:4,verbosity:4"
    ]
    assert len(STEERLM_ATTRIBUTES) == 9


def test_numbers_are_clamped_and_rounded_half_to_even() -> None:
    values = [-0.7, 0.49, 0.5, 1.5, 2.5, 3.5, 4.4, 9.0, 3.500001]
    numbers = ["0", "0", "0", "2", "2", "4", "4", "4", "4"]
    assert texts([values]) == [",".join(f"{n}:{v}" for n, v in zip(STEERLM_ATTRIBUTES, numbers, strict=True))]


def test_agrees_with_the_rule_written_number_by_number() -> None:
    draw = random.Random(5)
    rows = [
        [draw.choice([draw.uniform(-1, 5), draw.randint(0, 8) / 2, None, -100.0]) for _ in range(9)] for _ in range(99)
    ]
    for made, row in zip(texts(rows), rows, strict=True):
        known = [(n, v) for n, v in zip(STEERLM_ATTRIBUTES, row, strict=True) if v is not None and v != -100]
        assert made == (",".join(f"{n}:{round(min(4.0, max(0.0, v)))}" for n, v in known) or None)


def test_what_is_unknown_is_left_out() -> None:
    rows = [[None, 1.0], [-100.0, 1.0], [float("nan"), 1.0], [None, None]]
    assert texts(rows, names=("a", "b")) == ["b:1", "b:1", "b:1", None]


def test_another_scale() -> None:
    assert texts([[-3.4, 2.6]], names=("a", "b"), lowest=-3, highest=3) == ["a:-3,b:3"]
    with pytest.raises(ConfigError, match=r"4 \.\. 0 is no scale"):
        AttributeText(lowest=4, highest=0)
    with pytest.raises(ConfigError, match="must be different names"):
        AttributeText(names=("a", "a"))


@pytest.mark.parametrize(
    ("row", "reason"), [([1.0], "attributes-are-not-one-a-name"), ([float("inf"), 1.0], "attribute-not-finite")]
)
def test_rows_that_do_not_fit_are_refused(put, tmp_path, row, reason) -> None:
    given = put(table([[1.0, 2.0], row]))
    with pytest.raises(DataError, match=reason):
        apply(AttributeText(names=("a", "b")), given, str(tmp_path / "none"))
    made = apply(AttributeText(names=("a", "b")), given, str(tmp_path / "made"), max_rejected=1)
    assert made.read()["attribute_text"].to_pylist() == ["a:1,b:2"]


def test_the_text_is_read_back() -> None:
    rows = [[draw, None if draw == 2 else 4.0 - draw, *[1.0] * 7] for draw in (0.0, 1.0, 2.0, 3.0, 4.0)]
    made = AttributeText().label(table(rows), Context()).columns["attribute_text"]
    back = AttributeValues().label(pa.table({"attribute_text": made}), Context()).columns["attributes"]
    assert back.to_pylist() == rows
