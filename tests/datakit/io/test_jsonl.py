"""JSON Lines: every format by a hand-made record, every fault by its place, and the sample files."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datakit.apply import apply
from datakit.formats.forms import FORMS
from datakit.io import Jsonl
from datakit.op import Context
from schemas.errors import ConfigError, DataError, IntegrityError
from tests.datakit.fakes import Example, bare

EXAMPLES = [Example(Jsonl(files=(str(Path(__file__).with_name("prompts.jsonl")),), format="prompts"))]


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def load(path: Path, data: bytes | str, **settings: object) -> tuple[list[dict], list[dict]]:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    results = list(Jsonl(files=(str(path),), **settings).read(Context()))
    rejected = [row for result in results if result.rejected is not None for row in result.rejected.to_pylist()]
    rows = pa.concat_tables([result.rows for result in results]).to_pylist()
    return [row | {"messages": bare(row["messages"])} for row in rows], rejected


def lines(*records: object) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


EXTRA = "<extra_id_0>System\n\n<extra_id_1>User\nhi\n<extra_id_1>Assistant\n"
CASES = {
    "prompts": ({"text": "hi"}, {"messages": user("hi"), "answer": None}),
    "prompt_messages": ({"messages": user("hi"), "answer": "4"}, {"messages": user("hi"), "answer": "4"}),
    "completions": ({"input": "hi", "output": "yo"}, {"messages": user("hi"), "response": "yo"}),
    "rewarded": ({"input": "hi", "output": "yo", "reward": -0.5}, {"messages": user("hi"), "reward": -0.5}),
    "alpaca": (
        {"instruction": "do", "input": "x", "output": "yo"},
        {"messages": user("do\n\nx"), "response": "yo"},
    ),
    "messages": (
        {"messages": [*user("hi"), {"role": "assistant", "content": "yo"}]},
        {"messages": [*user("hi"), {"role": "assistant", "content": "yo"}]},
    ),
    "sharegpt": (
        {"system": "s", "conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yo"}]},
        {
            "messages": [
                {"role": "system", "content": "s"},
                *user("hi"),
                {"role": "assistant", "content": "yo"},
            ]
        },
    ),
    "chats": (
        {
            "system": "",
            "mask": "User",
            "type": "VALUE_TO_TEXT",
            "dataset": "d",
            "conversations": [
                {"from": "User", "value": "hi", "label": None},
                {"from": "Assistant", "value": "yo", "label": "quality:4"},
            ],
        },
        {
            "messages": [*user("hi"), {"role": "assistant", "content": "yo"}],
            "labels": [None, "quality:4"],
            "source": "d",
        },
    ),
    "preferences": (
        {"prompt": "hi", "chosen_response": "a", "rejected_response": "b", "chosen_reward": 2},
        {
            "messages": user("hi"),
            "chosen": "a",
            "rejected": "b",
            "chosen_reward": 2.0,
            "rejected_reward": None,
        },
    ),
    "preference_messages": (
        {
            "prompt": user("hi"),
            "chosen_response": {"role": "assistant", "content": "a"},
            "rejected_response": {"role": "assistant", "content": "b"},
        },
        {"messages": user("hi"), "chosen": "a", "rejected": "b"},
    ),
    "preference_chats": (
        {
            "chosen": [*user("hi"), {"role": "assistant", "content": "a"}],
            "rejected": [*user("hi"), {"role": "assistant", "content": "b"}],
        },
        {"messages": user("hi"), "chosen": "a", "rejected": "b"},
    ),
    "sharegpt_preferences": (
        {
            "conversations": [{"from": "human", "value": "hi"}],
            "chosen": {"from": "gpt", "value": "a"},
            "rejected": {"from": "gpt", "value": "b"},
        },
        {"messages": user("hi"), "chosen": "a", "rejected": "b"},
    ),
    "alpaca_preferences": (
        {"instruction": "do", "input": "", "chosen": "a", "rejected": "b"},
        {"messages": user("do"), "chosen": "a", "rejected": "b"},
    ),
    "hh": (
        {"chosen": "\n\nHuman: hi\n\nAssistant: a", "rejected": "\n\nHuman: hi\n\nAssistant: b"},
        {"messages": user("hi"), "chosen": "a", "rejected": "b"},
    ),
    "kto": (
        {"prompt": "hi", "response": "yo", "preference": "chosen"},
        {"response": "yo", "desirable": True},
    ),
    "kto_labels": (
        {"prompt": "hi", "completion": "yo", "label": False},
        {"response": "yo", "desirable": False},
    ),
    "kto_messages": (
        {"messages": [*user("hi"), {"role": "assistant", "content": "yo"}], "label": False},
        {"messages": user("hi"), "response": "yo", "desirable": False},
    ),
    "attributes": (
        {"text": EXTRA + "yo\n<extra_id_1>", "label": [4, -100, 0.5]},
        {"messages": user("hi"), "response": "yo", "attributes": [4.0, None, 0.5]},
    ),
}


@pytest.mark.parametrize("form", sorted(CASES))
def test_format_gives_its_row_kind(tmp_path: Path, form: str) -> None:
    record, expected = CASES[form]
    rows, rejected = load(tmp_path / "a.jsonl", lines(record), format=form)
    assert rejected == []
    assert {name: rows[0][name] for name in expected} == expected
    assert set(rows[0]) == set(FORMS[form].schema.names)


def test_comparisons_pair_neighbouring_lines_even_line_first(tmp_path: Path) -> None:
    texts = [{"text": f"{EXTRA}{answer}\n<extra_id_1>"} for answer in ("good", "bad", "fine", "poor")]
    rows, rejected = load(tmp_path / "a.jsonl", lines(*texts), format="comparisons")
    assert [(row["chosen"], row["rejected"]) for row in rows] == [("good", "bad"), ("fine", "poor")]
    assert rejected == []


def test_a_bad_comparison_takes_its_partner_with_it_and_moves_no_other_pair(tmp_path: Path) -> None:
    texts = [json.dumps({"text": f"{EXTRA}{answer}"}) for answer in ("a", "b", "c", "d", "e")]
    texts[1] = "{"
    rows, rejected = load(tmp_path / "a.jsonl", "\n".join(texts), format="comparisons")
    assert [(row["chosen"], row["rejected"]) for row in rows] == [("c", "d")]
    assert [(row["line"], row["reason"]) for row in rejected] == [
        (1, "partner-rejected"),
        (2, "broken-json"),
        (5, "unpaired-line"),
    ]


def test_string_preferences_lose_the_template_and_the_stop_token(tmp_path: Path) -> None:
    record = {"prompt": EXTRA, "chosen_response": "a\n<extra_id_1>", "rejected_response": "b\n<extra_id_1>"}
    rows, _ = load(tmp_path / "a.jsonl", lines(record), format="preferences", dialogue="extra_id")
    assert (rows[0]["messages"], rows[0]["chosen"], rows[0]["rejected"]) == (user("hi"), "a", "b")


def test_hh_keeps_the_whole_shared_history(tmp_path: Path) -> None:
    head = "\n\nHuman: one\n\nAssistant: two\n\nHuman: three\n\nAssistant:"
    rows, _ = load(tmp_path / "a.jsonl", lines({"chosen": head + " yes", "rejected": head + " no"}), format="hh")
    contents = [turn["content"] for turn in rows[0]["messages"]]
    assert contents == ["one", "two", "three"]


FAULTS = [
    (b"{", "broken-json"),
    (b'{"text": "a"} junk', "broken-json"),
    (b'{"text": "a"}{"text": "b"}', "broken-json"),
    (b'{"text": "a",}', "broken-json"),
    (b"null", "wrong-type"),
    (b"[1]", "wrong-type"),
    (b'["text"]', "wrong-type"),
    (b'{"text": "a", "x": ' + b"[" * 100000 + b"]" * 100000 + b"}", "too-deep"),
    (b"{}", "missing-key"),
    (b'{"text": null}', "null"),
    (b'{"text": 5}', "wrong-type"),
    (b'{"text": ["a"]}', "wrong-type"),
    (b'{"text": "\xff"}', "bad-text"),
    (b'{"text": "\\ud800"}', "bad-text"),
    (b'{"text": "a\\u0000b"}', "bad-text"),
    (b'{"text": "a", "text": "b"}', "duplicate-key"),
    (b'{"text": "  "}', "blank-prompt"),
    (b'{"text": ' + b"[" * 5000 + b"]" * 5000 + b"}", "too-deep"),
]


@pytest.mark.parametrize(("line", "reason"), FAULTS, ids=lambda value: repr(value)[:24])
def test_a_bad_line_is_reported_and_costs_no_other_row(tmp_path: Path, line: bytes, reason: str) -> None:
    good = [b'{"text": "%d"}' % number for number in range(40)]
    data = b"\n".join([*good[:17], line, *good[17:]]) + b"\n"
    rows, rejected = load(tmp_path / "a.jsonl", data, format="prompts")
    assert [row["messages"][0]["content"] for row in rows] == [str(number) for number in range(40)]
    assert [(row["line"], row["place"].split(",")[0]) for row in rejected] == [(18, "a.jsonl:18")]
    assert rejected[0]["reason"] in {reason, "wrong-type"}


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999", '"0.5"', "true", "null", "[1]"])
def test_a_reward_is_a_finite_number(tmp_path: Path, value: str) -> None:
    line = '{"input": "a", "output": "b", "reward": %s}\n'
    rows, rejected = load(tmp_path / "a.jsonl", line % "1" + line % value + line % "2", format="rewarded")
    assert [row["reward"] for row in rows] == [1.0, 2.0]
    assert [row["line"] for row in rejected] == [2]
    assert rejected[0]["reason"] in {"not-finite", "wrong-type", "null"}


def test_bad_text_names_the_byte(tmp_path: Path) -> None:
    _, rejected = load(tmp_path / "a.jsonl", b'{"text": "ab\xff"}\n', format="prompts")
    assert (rejected[0]["byte"], rejected[0]["place"]) == (12, "a.jsonl:1, byte 12")


def test_by_default_one_bad_line_stops_the_import_and_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n{"txt": "b"}\n')
    with pytest.raises(DataError, match=r"a\.jsonl:2") as caught:
        apply(Jsonl(files=(str(path),), format="prompts"), [], str(tmp_path / "out"))
    assert (caught.value.code, caught.value.slug) == (10, "missing-key")
    done = apply(Jsonl(files=(str(path),), format="prompts"), [], str(tmp_path / "out"), max_rejected=1)
    rejected = done.read_rejected()
    assert rejected is not None
    assert rejected["text"].to_pylist() == ['{"txt": "b"}']


@pytest.mark.parametrize(
    "data",
    [
        b'\xef\xbb\xbf{"text": "a"}\r\n{"text": "b"}\r\n',
        b'\n  {"text": "a"}  \n\n\n{"text": "b"}',
        gzip.compress(b'{"text": "a"}\n', mtime=0) + gzip.compress(b'{"text": "b"}\n', mtime=0),
    ],
    ids=["mark", "blank lines", "gzip"],
)
def test_byte_order_marks_carriage_returns_blank_lines_and_gzip_are_taken(tmp_path: Path, data: bytes) -> None:
    rows, rejected = load(tmp_path / "a", data, format="prompts")
    assert [row["messages"][0]["content"] for row in rows] == ["a", "b"]
    assert rejected == []


TRAPS = ["2024-01-01", "007", "1e5", "true", "NaN", "9007199254740993", "null", "=1+1", "\u202e \x1b[31m"]


def test_texts_are_never_taken_for_something_else(tmp_path: Path) -> None:
    rows, _ = load(tmp_path / "a.jsonl", lines(*({"text": trap} for trap in TRAPS)), format="prompts")
    assert [row["messages"][0]["content"] for row in rows] == TRAPS


@given(
    texts=st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1), min_size=1)
)
def test_texts_round_trip(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    path = tmp_path_factory.mktemp("trip") / "a.jsonl"
    kept = [text for text in texts if pa.compute.utf8_trim_whitespace(text).as_py()]
    rows, rejected = load(path, lines(*({"text": text} for text in texts)), format="prompts")
    assert [row["messages"][0]["content"] for row in rows] == kept
    assert len(rejected) == len(texts) - len(kept)


@pytest.mark.parametrize("data", [b"", b"\n\n", b"\xef\xbb\xbf"])
def test_a_file_without_records_is_an_error(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(DataError, match="no record"):
        load(tmp_path / "a.jsonl", data, format="prompts")


def test_a_line_over_the_limit_is_skipped_without_being_held(tmp_path: Path) -> None:
    long = json.dumps({"text": "x" * 3_000_000})
    data = '{"text": "a"}\n' + long + '\n{"text": "b"}\n'
    rows, rejected = load(tmp_path / "a.jsonl", data, format="prompts", max_line=1 << 20)
    assert [row["messages"][0]["content"] for row in rows] == ["a", "b"]
    assert [(row["line"], row["reason"], row["value"]) for row in rejected] == [(2, "line-too-long", float(len(long)))]
    rows, rejected = load(tmp_path / "a.jsonl", data, format="prompts", max_line=4 << 20)
    assert ([len(row["messages"][0]["content"]) for row in rows], rejected) == ([1, 3_000_000, 1], [])


def test_equal_rows_get_numbered_ids_and_ids_do_not_depend_on_files(tmp_path: Path) -> None:
    data = lines({"text": "a"}, {"text": "b"}, {"text": "a"}, {"text": "a"})
    first, _ = load(tmp_path / "a.jsonl", data, format="prompts")
    second, _ = load(tmp_path / "other.jsonl", gzip.compress(data.encode()), format="prompts")
    ids = [row["prompt_id"] for row in first]
    assert ids[2:] == [f"{ids[0]}-1", f"{ids[0]}-2"]
    assert ids == [row["prompt_id"] for row in second]


def test_moving_a_file_changes_nothing(tmp_path: Path) -> None:
    path, other = tmp_path / "a.jsonl", tmp_path / "deep" / "a.jsonl"
    path.write_text(lines({"text": "a"}))
    other.parent.mkdir()
    shutil.copy(path, other)
    one = apply(Jsonl(files=(str(path),), format="prompts"), [], str(tmp_path / "one"))
    two = apply(Jsonl(files=(str(other),), format="prompts"), [], str(tmp_path / "two"))
    assert (one.task_key, one.content_digest) == (two.task_key, two.content_digest)
    assert "files" not in one.manifest.op["params"]


def test_a_file_that_changed_after_it_was_named_is_an_integrity_error(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(lines({"text": "a"}))
    op = Jsonl(files=(str(path),), format="prompts").pinned()
    path.write_text(lines({"text": "b"}))
    with pytest.raises(IntegrityError, match="not the file that was named"):
        apply(op, [], str(tmp_path / "out"))


@pytest.mark.parametrize("cut", [3, 15, -1, -9])
def test_a_torn_gzip_file_is_an_error(tmp_path: Path, cut: int) -> None:
    with pytest.raises(DataError, match="gzip"):
        load(tmp_path / "a.gz", gzip.compress(lines({"text": "a" * 99}).encode())[:cut], format="prompts")


def test_a_gzip_bomb_is_stopped(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expands"):
        load(tmp_path / "a.gz", gzip.compress(b"\n" * (80 << 20)), format="prompts")


def test_a_list_file_gives_the_lines_of_its_elements(tmp_path: Path) -> None:
    records = [{"text": f"a\n{number}"} for number in range(3)]
    rows, _ = load(tmp_path / "a.json", json.dumps(records, indent=2), format="prompts", layout="array")
    assert [row["messages"][0]["content"] for row in rows] == ["a\n0", "a\n1", "a\n2"]
    rows, rejected = load(tmp_path / "a.json", '[{"text": "a"},\n\n {"x": 1}]', format="prompts", layout="array")
    assert [(row["line"], row["reason"]) for row in rejected] == [(3, "missing-key")]


@pytest.mark.parametrize("data", ['{"text": "a"}', '[{"text": "a"}', '[{"text": "a"} {"text": "b"}]', "[1,]", "[] 1"])
def test_a_broken_list_file_is_an_error(tmp_path: Path, data: str) -> None:
    with pytest.raises(DataError):
        load(tmp_path / "a.json", data, format="prompts", layout="array")


def test_columns_can_be_renamed(tmp_path: Path) -> None:
    data = lines({"question": "a", "text": "no", "gold": "4"})
    rows, _ = load(tmp_path / "a.jsonl", data, format="prompts", columns={"prompt": "question", "answer": "gold"})
    assert (rows[0]["messages"], rows[0]["answer"]) == (user("a"), "4")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"format": "promts"}, "did you mean prompts"),
        ({"format": "prompts", "columns": {"promt": "x"}}, "did you mean prompt"),
        ({"format": "messages", "dialogue": "hh"}, "does not read hh"),
        ({"format": "prompts", "files": ()}, "names no files"),
        ({"format": "prompts", "digests": ("a", "b")}, "1 files and 2 digests"),
    ],
)
def test_wrong_settings_are_named(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Jsonl(**{"files": ("a",), **settings})


def test_a_missing_file_and_a_refused_place_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no file"):
        Jsonl(files=(str(tmp_path / "no.jsonl"),), format="prompts").params()
    with pytest.raises(ConfigError, match="http"):
        Jsonl(files=("http://127.0.0.1/a",), format="prompts").params()


def test_settings_round_trip_as_json(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(lines({"text": "a"}))
    op = Jsonl(files=(str(tmp_path / "a.jsonl"),), format="prompts", columns={"prompt": "text"})
    assert Jsonl.of(json.loads(json.dumps(op.params()))).params() == op.params()


CHAT_FAULTS = [
    ([], "no-turns"),
    ([{"role": "wizard", "content": "a"}], "unknown-role"),
    ([{"role": "user", "content": None}], "turn-without-content"),
    (
        [*user("a"), {"role": "system", "content": "b"}, {"role": "assistant", "content": "c"}],
        "system-turn-inside",
    ),
    (user("a"), "no-assistant-turn"),
    ([{"role": "assistant", "content": "a"}], "no-user-turn"),
    ([*user("a"), {"role": "assistant", "content": " "}], "blank-response"),
]


@pytest.mark.parametrize(("turns", "reason"), CHAT_FAULTS, ids=[reason for _, reason in CHAT_FAULTS])
def test_malformed_chats_are_named(tmp_path: Path, turns: list, reason: str) -> None:
    _, rejected = load(tmp_path / "a.jsonl", lines({"messages": turns}), format="messages")
    assert [row["reason"] for row in rejected] == [reason]
