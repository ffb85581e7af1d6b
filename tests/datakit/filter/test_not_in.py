"""filter.not_in: rows whose key the other inputs have go, wherever they stand; the rest stays in order."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datakit.apply import apply
from datakit.blend import Split
from datakit.columns.conversations import of_rows
from datakit.filter import NotIn, not_in
from datakit.op import Context
from schemas.errors import ConfigError
from tests.datakit.fakes import Example, scored

EXAMPLES = [Example(NotIn(), (scored(), scored().slice(4, 3)))]


def table(keys):
    return pa.table({"prompt_id": pa.array(keys, pa.string()), "n": list(range(len(keys)))})


def test_by_hand(put, tmp_path):
    rows = put(table(["a", "b", None, "c", "a", "", "b" * 300]), (2, 5))
    others = [put(table(["x", "a"])), put(table([None, "b" * 300, "a"]), (1,))]
    out = apply(NotIn(reason="judged"), [rows, *others], str(tmp_path / "out"))
    assert out.read()["n"].to_pylist() == [1, 3, 5]
    gone = [tuple(row.values()) for row in out.read_rejected().select(["n", "reason", "threshold"]).to_pylist()]
    assert gone == [(0, "judged", "a"), (2, "judged", None), (4, "judged", "a"), (6, "judged", "b" * 200)]
    assert out.manifest.stats["rejected"] == {"judged": 4}


def test_conversations_go_by_their_first_question_as_in_a_split(put, tmp_path):
    chats = [[("user", f"q{n % 20}"), ("assistant", f"a{n}"), ("user", f"and {n}?")] for n in range(60)]
    chats = [[("system", f"be {n}"), *chat] if n % 3 else chat for n, chat in enumerate(chats)]
    rows = put(pa.table({"messages": of_rows(chats), "n": list(range(60))}), (25,))
    parts = {
        name: apply(
            Split(part=name, parts=("train", "held-out"), shares=(0.8, 0.2), key="messages"), rows, str(tmp_path / name)
        )
        for name in ("train", "held-out")
    }
    kept = apply(NotIn(key="messages"), [rows, parts["held-out"]], str(tmp_path / "kept"))
    assert parts["held-out"].num_rows and kept.read()["n"].equals(parts["train"].read()["n"])
    assert kept.read_rejected()["n"].to_pylist() == parts["held-out"].read()["n"].to_pylist()
    assert {text[0] for text in kept.read_rejected()["threshold"].to_pylist()} == {"q"}


KEYS = st.lists(st.sampled_from(["a", "b", "c", "", None]), max_size=20)


@settings(max_examples=12)
@given(KEYS, st.lists(KEYS, min_size=1, max_size=3), st.integers(1, 7))
def test_against_plain_python(put, keys, others, batch):
    before, not_in._BATCH_ROWS = not_in._BATCH_ROWS, batch
    try:
        inputs = [put(table(some), (len(some) // 3,)) for some in (keys, *others)]
        results = list(NotIn().blend(inputs, Context()))
    finally:
        not_in._BATCH_ROWS = before
    gone = {key for some in others for key in some}
    kept = [n for result in results for n in result.rows["n"].to_pylist()]
    dropped = [n for result in results for n in result.rejected["n"].to_pylist()]
    assert kept == [n for n, key in enumerate(keys) if key not in gone]
    assert dropped == [n for n, key in enumerate(keys) if key in gone]


def test_rows_alone_are_refused(put, tmp_path):
    with pytest.raises(ConfigError, match=r"filter.not_in got 1 input") as fault:
        apply(NotIn(), put(table(["a"])), str(tmp_path / "out"))
    assert fault.value.slug == "bad-inputs" and fault.value.next == "quiver ops filter.not_in"
