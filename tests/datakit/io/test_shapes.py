"""Shapes of public sets: what a key may hold, what is refused by name, what is left out and reported, what is kept."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datakit.apply import apply
from datakit.blend import Pair
from datakit.formats.forms import FORMS
from datakit.io import Jsonl, Parquet
from datakit.op import Context
from schemas.errors import ConfigError, DataError
from tests.datakit.fakes import bare


def turn(role: str, content: object, **more: object) -> dict:
    return {"role": role, "content": content, **more}


def load(folder: Path, records: list, **settings: object) -> tuple[list[dict], list[dict], dict[str, float]]:
    (folder / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    results = list(Jsonl(files=(str(folder / "a.jsonl"),), **settings).read(Context()))
    rejected = [row for result in results if result.rejected is not None for row in result.rejected.to_pylist()]
    rows = [row for result in results for row in result.rows.to_pylist()]
    counts: dict[str, float] = {}
    for result in results:
        counts |= result.counts
    return [row | {"messages": bare(row["messages"])} for row in rows], rejected, counts


CHAT = [turn("user", "hi"), turn("assistant", "yo")]
CALL = {"type": "function", "function": {"name": "now", "arguments": {"tz": "UTC", "at": 1}}}
CALL_TEXT = '[{"type":"function","function":{"name":"now","arguments":{"tz":"UTC","at":1}}}]'
HI = [turn("user", "hi")]

SHAPES = [
    ("prompts", "just a string", {"messages": [turn("user", "just a string")]}),
    ("prompts", {"prompt": "a", "answer": 4}, {"answer": "4"}),
    ("prompts", {"prompt": "a", "answer": 4.50}, {"answer": "4.5"}),
    ("prompts", {"prompt": HI, "tools": [{"b": 1, "a": 2}]}, {"messages": HI, "tools": '[{"b":1,"a":2}]'}),
    ("prompts", {"prompt": "a", "system": "s"}, {"messages": [turn("system", "s"), turn("user", "a")]}),
    ("messages", {"messages": [turn("user", [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]), CHAT[1]]},
     {"messages": CHAT}),
    ("messages", {"messages": [turn("user", "t?"), turn("assistant", None, tool_calls=[CALL]),
                               turn("tool", "12", tool_call_id="c1"), turn("assistant", "noon")]},
     {"messages": [turn("user", "t?"), turn("assistant", "", tool_calls=CALL_TEXT),
                   turn("tool", "12", tool_call_id="c1"), turn("assistant", "noon")]}),
    ("messages", {"messages": [turn("user", "hi"), turn("assistant", "yo", weight=0, reasoning_content="so")]},
     {"messages": [turn("user", "hi"), turn("assistant", "yo", weight=0.0, reasoning="so")]}),
    ("messages", {"messages": [turn("user", "hi", train=False), turn("assistant", "yo", train=True)]},
     {"messages": [turn("user", "hi", weight=0.0), turn("assistant", "yo", weight=1.0)]}),
    ("sharegpt", {"conversations": [{"from": "human", "value": "t?"},
                                    {"from": "function_call", "value": '{"name": "now", "arguments": {}}'},
                                    {"from": "observation", "value": "12"}, {"from": "gpt", "value": "noon"}],
                  "tools": '[ {"name": "now"} ]'},
     {"tools": '[{"name":"now"}]',
      "messages": [turn("user", "t?"),
                   turn("assistant", "", tool_calls='[{"type":"function","function":{"name":"now","arguments":{}}}]'),
                   turn("tool", "12"), turn("assistant", "noon")]}),
    ("alpaca", {"instruction": "do", "output": "ok", "system": "s", "history": [["q", "a"]]},
     {"messages": [turn("system", "s"), turn("user", "q"), turn("assistant", "a"), turn("user", "do")]}),
    ("completions", {"prompt": HI, "completion": [CHAT[1]]}, {"messages": HI, "response": "yo"}),
    ("completions", {"prompt": "hi", "completion": CHAT[1]}, {"messages": HI, "response": "yo"}),
    ("rewarded", {"prompt": "hi", "response": "yo", "score": 2}, {"reward": 2.0, "sample_index": 0}),
    ("rewarded", {"prompt": "hi", "response": "yo", "score": 2, "sample_index": 7}, {"sample_index": 7}),
    ("kto_labels", {"prompt": HI, "completion": [CHAT[1]], "label": False}, {"response": "yo", "desirable": False}),
    ("kto_messages", {"messages": CHAT, "label": True}, {"messages": HI, "response": "yo", "desirable": True}),
    ("preference_chats", {"prompt": "hi", "chosen": CHAT, "rejected": [HI[0], turn("assistant", "no")],
                          "score_chosen": 8, "score_rejected": 2},
     {"messages": HI, "chosen": "yo", "rejected": "no", "chosen_reward": 8.0, "rejected_reward": 2.0}),
    ("preference_chats", {"prompt": "hi", "chosen": [turn("system", "s"), *CHAT],
                          "rejected": [turn("system", "s"), HI[0], turn("assistant", "no")]},
     {"messages": [turn("system", "s"), *HI]}),
    ("preferences", {"prompt": HI, "chosen": "yo", "rejected": [turn("assistant", "no")]},
     {"messages": HI, "chosen": "yo", "rejected": "no"}),
    ("preference_chats", {"chosen_messages": [turn("user", [{"type": "text", "value": "hi"}], loss_weight=0.0),
                                              CHAT[1]],
                          "rejected_messages": [HI[0], turn("assistant", "no")]}, {"chosen": "yo", "rejected": "no"}),
    ("vicuna", {"question_id": 1, "turns": ["hi"]}, {"messages": HI}),
    ("ifeval", {"key": 1, "prompt": "hi", "instruction_id_list": ["a:b", "c:d"], "kwargs": [{"n": 1, "m": None}, None]},
     {"messages": HI, "answer": '{"instruction_id_list":["a:b","c:d"],"kwargs":[{"n":1},{}]}'}),
    ("code", {"task_id": "x/1", "prompt": "def f():", "test": "def check(f): f()", "entry_point": "f"},
     {"messages": [turn("user", "def f():")],
      "answer": '{"prompt":"def f():","entry_point":"f","test":"def check(f): f()"}'}),
    ("code", {"text": "Add.", "code": "x", "test_list": ["assert a", "assert b"], "test_setup_code": "import c"},
     {"messages": [turn("user", "Add.\nYour code should pass these tests:\n\nassert a\nassert b")],
      "answer": '{"test":"import c\\nassert a\\nassert b"}'}),
    ("nemo_gym", {"responses_create_params": {"input": [{"role": "user", "content": [{"type": "input_text",
                  "text": "hi"}]}], "instructions": "s", "tools": []}, "expected_answer": 4},
     {"messages": [turn("system", "s"), *HI], "answer": "4", "tools": None}),
    ("nemo_gym_rollouts", {"responses_create_params": {"input": "hi"}, "reward": 1, "response": {"output": [
        {"type": "reasoning", "summary": []},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "yo"}]}]}},
     {"messages": HI, "response": "yo", "reward": 1.0, "sample_index": 0}),
]  # fmt: skip


@pytest.mark.parametrize(("form", "record", "expected"), SHAPES)
def test_a_key_is_read_in_every_shape(tmp_path: Path, form: str, record: object, expected: dict) -> None:
    rows, rejected, _ = load(tmp_path, [record], format=form)
    assert rejected == []
    assert {name: rows[0][name] for name in expected} == expected
    assert rows[0]["source"] == "a.jsonl"


REFUSED = [
    ("messages", {"messages": CHAT, "label": False}, "key-not-read", "label"),
    ("messages", {"messages": CHAT, "weight": 0.5}, "key-not-read", "weight"),
    ("completions", {"prompt": "a", "response": "b", "history": [["q", "a"]]}, "key-not-read", "history"),
    ("completions", {"prompt": "a", "response": "b", "reasoning_content": "so"}, "key-not-read", "reasoning_content"),
    ("messages", {"messages": [HI[0], turn("assistant", "yo", weight=0.5)]}, "fractional-weight", "0 or 1"),
    ("messages", {"messages": [turn("user", "hi", weight=1), CHAT[1]]}, "learns-other-role", "assistant"),
    ("messages", {"messages": [HI[0], turn("assistant", "yo", mask=True)]}, "key-not-read", "mask"),
    ("messages", {"messages": [turn("user", [{"type": "image_url", "image_url": "x"}]), CHAT[1]]}, "content-part",
     "image_url"),
    ("completions", {"prompt": HI, "completion": [turn("assistant", "", tool_calls=[CALL])]},
     "answer-with-tool-calls", ""),
    ("completions", {"prompt": "hi", "completion": [turn("assistant", "yo", reasoning="so")]},
     "answer-with-reasoning", ""),
    ("completions", {"prompt": "hi", "completion": [turn("assistant", "yo", weight=0)]}, "answer-of-weight-0", ""),
    ("vicuna", {"turns": ["a", "b"]}, "several-turns", "one"),
    ("ifeval", {"prompt": "hi", "instruction_id_list": ["a:b"], "kwargs": []}, "missing-key", "of one length"),
    ("code", {"prompt": "def f():", "test": "def check(f): f()"}, "missing-key", "entry_point"),
    ("code", {"text": "Add.", "test_list": []}, "missing-key", "test_list"),
    ("preference_chats", {"prompt": "other", "chosen": CHAT, "rejected": [HI[0], turn("assistant", "no")]},
     "prompts-differ", ""),
    ("messages", {"messages": [HI[0], turn("assistant", "yo", weight=1, train=False)]},
     "two-weights", "weight and train that say the same"),
    ("messages", {"messages": [turn("user", [{"type": "text", "text": "h", "value": "i"}]), CHAT[1]]},
     "content-part", "one text each"),
]  # fmt: skip


@pytest.mark.parametrize(("form", "record", "reason", "rule"), REFUSED)
def test_what_would_change_what_is_learnt_is_refused_by_name(
    tmp_path: Path, form: str, record: dict, reason: str, rule: str
) -> None:
    rows, rejected, _ = load(tmp_path, [record], format=form)
    assert (rows, [row["reason"] for row in rejected]) == ([], [reason])
    assert rule in (rejected[0]["threshold"] or "")


@pytest.mark.parametrize("odd", [None, {"prompt": [turn("user", "c")], "response": "d", "id": 9}], ids=["plain", "odd"])
def test_what_is_not_read_is_counted_whether_read_at_once_or_by_line(tmp_path: Path, odd: dict | None) -> None:
    records = [{"prompt": "a", "response": "b", "id": 1}, {"prompt": "b", "response": "b", "id": 2, "n": {"x": [1]}}]
    rows, _, counts = load(tmp_path, records + ([odd] if odd else []), format="completions")
    assert counts == {"left_out.id": 3.0 if odd else 2.0, "left_out.n": 1.0}
    assert [row["response"] for row in rows] == ["b", "b", "d"][: len(rows)]
    _, _, counts = load(tmp_path, records, format="completions", ignore=("id",))
    assert counts == {"left_out.n": 1.0}


TWICE = [{"prompt": "a", "response": "b", "output": "c"}, {"prompt": "a", "response": "b", "output": "b"},
         {"prompt": "b", "response": "b", "output": ""}, {"prompt": "c", "output": "d"}]  # fmt: skip


@pytest.mark.parametrize("form", ["jsonl", "odd", "parquet", "parquet, nested"])
def test_a_second_name_of_a_key_is_counted_where_it_says_something_else(tmp_path: Path, form: str) -> None:
    records = TWICE + [{"prompt": HI, "response": "b"}] * (form == "odd")
    if not form.startswith("parquet"):
        rows, _, counts = load(tmp_path, records, format="completions")
        assert [row["response"] for row in rows] == ["b", "b", "b", "d", "b"][: len(records)]
        assert load(tmp_path, records, format="completions", ignore=("output",))[2] == {}
        assert load(tmp_path, records, format="completions", keep=("output",))[2] == {}
    else:
        given = [record | {"prompt": [turn("user", record["prompt"])]} for record in TWICE] if "," in form else TWICE
        pq.write_table(pa.Table.from_pylist(given), tmp_path / "a.parquet")
        (result,) = Parquet(files=(str(tmp_path / "a.parquet"),), format="completions").read(Context())
        counts = result.counts
    assert counts == {"left_out.output": 1.0}


@pytest.mark.parametrize(("first", "second", "read", "left"), [
    ({"content": "yo"}, {"value": "no"}, {}, "value"),
    ({"content": "yo"}, {"value": "yo"}, {}, ""),
    ({"content": ""}, {"value": "yo"}, {}, ""),
    ({"content": "yo", "reasoning": "so"}, {"thinking": "but"}, {"reasoning": "so"}, "thinking"),
    ({"content": "", "tool_calls": [CALL]}, {"function_call": {"name": "then", "arguments": {}}},
     {"content": "", "tool_calls": CALL_TEXT}, "function_call"),
])  # fmt: skip
def test_a_second_name_in_a_turn_is_counted_where_it_says_something_else(
    tmp_path: Path, first: dict, second: dict, read: dict, left: str
) -> None:
    answer = {"role": "assistant", **first, **second}
    (row,), _, counts = load(tmp_path, [{"messages": [HI[0], answer]}], format="messages")
    assert row["messages"] == [HI[0], CHAT[1] | read]
    assert counts == ({f"left_out.turns' {left}": 1.0} if left else {})


def test_left_out_is_reported_once_with_counts(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": "a", "response": "b", "id": 1}\n' * 3)
    op = Jsonl(files=(str(tmp_path / "a.jsonl"),), format="completions")
    made = apply(op, [], str(tmp_path / "out"))
    (note,) = op.notes(made.manifest)
    assert note.startswith("left out: id (3 rows)")
    assert note.endswith("; to carry one along: --keep id")


def test_kept_keys_are_typed_over_the_whole_file(tmp_path: Path) -> None:
    records = [
        {"prompt": "a", "id": 1, "x": 1, "meta": {"b": [2], "a": "é"}, "mixed": 1, "prompt_id": "p", "d": "2024-01-01"},
        {"prompt": "b", "id": 2, "x": 1.5, "mixed": "1"},
    ]
    names = ("id", "x", "meta", "meta.a", "mixed", "prompt_id", "d")
    rows, rejected, counts = load(tmp_path, records, format="prompts", keep=names)
    assert (rejected, counts) == ([], {})
    kept = ("id", "x", "meta", "meta_a", "mixed", "file_prompt_id", "d")
    assert [tuple(row[name] for name in kept) for row in rows] == [
        (1, 1.0, '{"a":"é","b":[2]}', "é", "1", "p", "2024-01-01"),
        (2, 1.5, None, None, '"1"', None, None),
    ]
    types = Jsonl(files=(str(tmp_path / "a.jsonl"),), format="prompts", keep=names).gives()
    assert [str(types[name].type) for name in kept] == ["int64", "double", *["string"] * 5]


PAIRED = {"chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
TREE = {"prompt": {"role": "prompter", "text": "q", "replies": [{"role": "assistant", "text": "a", "rank": 0}]}}
ASKED = [{"from": "User", "value": "q"}, {"from": "Assistant", "value": "a"}]
WORSE = [PAIRED["chosen"][0], {"role": "assistant", "content": "b"}]
CARRIED = [
    ("completions", "plain", [{"prompt": "q", "response": "a"}]),
    ("chats", "plain", [{"conversations": ASKED}]),
    ("preference_chats", "plain", [{**PAIRED, "rejected": WORSE}]),
    ("comparisons", "hh", [{"text": "\n\nHuman: q\n\nAssistant: a"}, {"text": "\n\nHuman: q\n\nAssistant: b"}]),
    ("oasst", "plain", [TREE]),
]


@pytest.mark.parametrize(("form", "dialogue", "records"), CARRIED, ids=[name for name, _, _ in CARRIED])
def test_a_kept_key_may_be_named_as_any_key_of_a_format(
    form: str, dialogue: str, records: list[dict[str, Any]], tmp_path: Path
) -> None:
    every = {name for one in FORMS.values() for key in one.keys for name in (key.name, *key.aliases)}
    assert {"dataset", "prompt", "conversations", "text"} <= every
    for name in sorted(every - {"tools", "system", "messages"} | {*records[0]}):
        own = [record if name in record else {**record, name: 5} for record in records]
        plain, refused, _ = load(tmp_path, own, format=form, dialogue=dialogue)
        if refused:
            continue  # 5 is no value of a key that is read
        (plain_row,) = plain
        ((row,), rejected, _) = load(tmp_path, own, format=form, dialogue=dialogue, keep=(name,))
        assert (rejected, {column: row[column] for column in plain_row}) == ([], plain_row), name
        kept = row[f"file_{name}" if name in plain_row else name]
        value = own[0][name]
        texts = value if isinstance(value, str | int) else json.dumps(value, sort_keys=True, separators=(",", ":"))
        assert kept == texts


def test_parquet_is_read_in_the_same_shapes_and_tells_the_same(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "hi", "weight": None}, {"role": "assistant", "content": "yo", "weight": 0.0}]
    pq.write_table(
        pa.table({"messages": [turns], "id": [7], "extra": pa.array([None], pa.string()), "n": [1]}),
        tmp_path / "a.parquet",
    )
    op = Parquet(files=(str(tmp_path / "a.parquet"),), format="messages", keep=("id",))
    made = apply(op, [], str(tmp_path / "out"))
    (row,) = made.read().to_pylist()
    assert bare(row["messages"]) == [turn("user", "hi"), turn("assistant", "yo", weight=0.0)]
    assert (row["id"], row["source"]) == (7, "a.parquet")
    assert op.notes(made.manifest)[0].startswith("left out: n (1 row)")


def test_columns_are_dotted_paths_into_nested_objects(tmp_path: Path) -> None:
    records = [{"task": {"q": "a"}, "runs": [{"out": "b"}]}]
    columns = {"prompt": "task.q", "response": "runs.0.out"}
    rows, rejected, counts = load(tmp_path, records, format="completions", columns=columns)
    assert (rejected, counts) == ([], {})
    assert (rows[0]["messages"], rows[0]["response"]) == ([turn("user", "a")], "b")
    with pytest.raises(ConfigError, match="no name of a key"):
        Jsonl(files=("a",), format="completions", columns={"response": ["a"]})


def test_an_error_names_the_key_what_is_there_and_the_setting_that_helps(tmp_path: Path) -> None:
    def failed(record: dict) -> DataError:
        (tmp_path / "a.jsonl").write_text(json.dumps(record) + "\n")
        with pytest.raises(DataError) as caught:
            apply(Jsonl(files=(str(tmp_path / "a.jsonl"),), format="completions"), [], str(tmp_path / "out"))
        return caught.value

    error = failed({"question": "q", "solution": "s"})
    assert "prompt | input (there: question, solution)" in error.found
    assert error.next == """--columns '{"prompt": "question", "response": "solution"}'"""
    assert "response: text" in failed({"prompt": "q", "response": 4}).found
    assert "--ignore label" in failed({"prompt": "q", "response": "4", "label": True}).next


def test_the_source_is_part_of_the_identity_and_the_folder_is_not(tmp_path: Path) -> None:
    keys = []
    for name in ("a/x.jsonl", "b/x.jsonl", "b/y.jsonl"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text('{"prompt": "a"}\n')
        keys += [apply(Jsonl(files=(str(path),), format="prompts"), [], str(tmp_path / f"out{len(keys)}")).task_key]
    assert keys[0] == keys[1] != keys[2]
    named = [Jsonl(files=(str(tmp_path / f"b/{name}.jsonl"),), format="prompts", source="s") for name in "xy"]
    assert named[0].params() == named[1].params()


def test_answers_with_scores_are_numbered_and_pair(tmp_path: Path) -> None:
    scores = [("a", 1.0), ("a", 3.0), ("b", 0.0), ("b", 5.0), ("b", 2.0)]
    lines = [json.dumps({"prompt": p, "response": f"{p}{s}", "score": s}) for p, s in scores]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    rows = apply(Jsonl(files=(str(tmp_path / "a.jsonl"),), format="rewarded"), [], str(tmp_path / "rows"))
    assert rows.read()["sample_index"].to_pylist() == [0, 1, 0, 1, 2]
    pairs = apply(Pair(), rows, str(tmp_path / "pairs")).read().to_pylist()
    assert [(pair["chosen"], pair["rejected"]) for pair in pairs] == [("a3.0", "a1.0"), ("b5.0", "b0.0")]


def test_an_openassistant_tree_gives_each_answer_its_rank(tmp_path: Path) -> None:
    leaf = {"role": "prompter", "text": "more?", "replies": [{"role": "assistant", "text": "ok", "replies": []}]}
    best = {"role": "assistant", "text": "good", "rank": 0, "replies": [leaf]}
    worse = {"role": "assistant", "text": "bad", "rank": 1, "replies": []}
    rows, rejected, _ = load(
        tmp_path, [{"prompt": {"role": "prompter", "text": "hi", "replies": [worse, best]}}], format="oasst"
    )
    assert rejected == []
    assert [(len(r["messages"]), r["response"], r["reward"], r["sample_index"]) for r in rows] == [
        (1, "bad", -1.0, 0),
        (1, "good", 0.0, 1),
        (3, "ok", None, 0),
    ]


@pytest.mark.parametrize("role", ["prompter", "x", None])
def test_what_is_no_assistants_answers_no_question_of_a_tree(role: str | None, tmp_path: Path) -> None:
    reply = {"role": role, "text": "hello", "replies": []}
    rows, rejected, _ = load(
        tmp_path, [{"prompt": {"role": "prompter", "text": "hi", "replies": [reply]}}], format="oasst"
    )
    assert not rows and [row["reason"] for row in rejected] == ["wrong-type"]


def test_many_keys_take_linear_time(tmp_path: Path) -> None:
    record = {f"key{number}": number for number in range(40_000)}
    start = time.perf_counter()
    _, rejected, _ = load(tmp_path, [record], format="prompts")
    assert [row["reason"] for row in rejected] == ["missing-key"]
    twice = json.dumps(record)[:-1] + ', "key7": 1}'
    (tmp_path / "b.jsonl").write_text(twice + "\n")
    results = list(Jsonl(files=(str(tmp_path / "b.jsonl"),), format="prompts").read(Context()))
    assert results[0].rejected is not None
    assert results[0].rejected["reason"].to_pylist() == ["duplicate-key"]
    assert time.perf_counter() - start < 10


def test_whether_a_line_is_taken_does_not_depend_on_its_neighbours(tmp_path: Path) -> None:
    records = [{"prompt": "a", "answer": "1"}, {"prompt": HI, "answer": 2, "n": [1]}, "c", {"prompt": 5}]
    together, gone, _ = load(tmp_path, records, format="prompts")
    alone = [load(tmp_path, [record], format="prompts") for record in records]
    assert [row | {"source": ""} for row in together] == [row | {"source": ""} for one in alone for row in one[0]]
    assert [row["reason"] for row in gone] == [row["reason"] for one in alone for row in one[1]] == ["wrong-type"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"\\ud800": 1, "text": "a"}', "bad-text"),
        (b'{"text": "a", "x": ' + b"9" * 5000 + b"}", "broken-json"),
        (b'{"text": "a", "x": ' + b'{"x":' * 10000 + b"1" + b"}" * 10000 + b"}", "too-deep"),
        (b'{"text": 1' + b"0" * 400 + b"}", "wrong-type"),
        (b'{"text": "a", "answer": 1e999}', "not-finite"),
    ],
    ids=["surrogate key", "5,000 digits", "deep", "400 digits", "1e999"],
)
def test_a_hostile_line_is_a_rejected_row(tmp_path: Path, line: bytes, reason: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a"}\n' + line + b'\n{"text": "b"}\n')
    op = Jsonl(files=(str(tmp_path / "a.jsonl"),), format="prompts")
    made = apply(op, [], str(tmp_path / "out"), max_rejected=1)
    gone = made.read_rejected()
    assert gone is not None
    assert (made.num_rows, gone["line"].to_pylist(), gone["reason"].to_pylist()) == (2, [2], [reason])


def test_a_reward_of_400_digits_is_a_rejected_row(tmp_path: Path) -> None:
    lines = [b'{"prompt": "a", "response": "b", "reward": %s}' % reward for reward in (b"1", b"1" + b"0" * 400, b"0.5")]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    made = apply(
        Jsonl(files=(str(tmp_path / "a.jsonl"),), format="rewarded"), [], str(tmp_path / "out"), max_rejected=1
    )
    gone = made.read_rejected()
    assert gone is not None and gone["reason"].to_pylist() == ["not-finite"]
    assert made.read()["reward"].to_pylist() == [1.0, 0.5]


def test_tools_and_their_calls_keep_the_order_of_their_keys() -> None:
    from datakit.formats.keys import _tools
    from datakit.formats.turns import read_turns

    call = {"type": "function", "function": {"name": "f", "arguments": {"unit": "C", "city": "Ulm"}}}
    text = '[{"type":"function","function":{"name":"f","arguments":{"unit":"C","city":"Ulm"}}}]'
    (turn,) = read_turns([{"role": "assistant", "content": None, "tool_calls": [call]}], set(), "")
    assert turn["tool_calls"] == text
    assert _tools([call], None) == text
