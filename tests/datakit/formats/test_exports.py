"""Rows written as other toolkits' files, read again, and held against the rows they were."""

from __future__ import annotations

import json
import os
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from datakit.apply import apply
from datakit.formats.exports import EXPORTS
from datakit.formats.exports.write import Written, export
from datakit.io import Jsonl
from schemas import Column, Dataset
from schemas.errors import ConfigError, ConflictError, DataError

IDS = ("prompt_id", "chat_id", "sample_id", "pair_id")
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 2, "b": 3}}}
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
LONG = 'Löwe "quoted" \\ back\nslash\ttab \u2028 end 🦁'


def turns_of(*texts: str) -> list[dict[str, Any]]:
    return [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(texts)]


SYSTEM = {"role": "system", "content": "Be kind."}
CHATS: list[dict[str, Any]] = [
    {"messages": turns_of("Hello", LONG)},
    {"messages": [SYSTEM, *turns_of("a", "b", "c", "d")]},
    {"messages": turns_of("Hello", LONG)},
]
RICH: list[dict[str, Any]] = [
    {
        "messages": [
            *turns_of("2 + 3?"),
            {"role": "assistant", "content": "", "tool_calls": [CALL], "reasoning_content": "I add."},
            {"role": "tool", "content": "5", "tool_call_id": "c1"},
            {"role": "assistant", "content": "5", "weight": 1},
        ],
        "tools": TOOLS,
    },
    {"messages": [*turns_of("a"), {"role": "assistant", "content": "bad", "weight": 0}, *turns_of("b", "good")]},
]
NEMO = [
    {
        "system": "",
        "conversations": [
            {"from": "User", "value": "q", "label": None},
            {"from": "Assistant", "value": LONG, "label": "quality:4,toxicity:0"},
        ],
        "mask": "User", "type": "VALUE_TO_TEXT", "dataset": "own",
    },
    {
        "system": "Be kind.",
        "conversations": [
            {"from": "User", "value": "q", "label": None},
            {"from": "Assistant", "value": "a", "label": None},
        ],
        "mask": "User", "type": None, "dataset": "other",
    },
]  # fmt: skip
ANSWERED = [{"prompt": [SYSTEM, *turns_of("q", "a", "q2")], "response": LONG}, {"prompt": "one?", "response": "1"}]
PAIRS = [
    {"prompt": "one?", "chosen": LONG, "rejected": "2", "chosen_reward": 0.1, "rejected_reward": -3.0},
    {"prompt": [SYSTEM, *turns_of("q", "a", "q2")], "chosen": "yes", "rejected": "no"},
]
JUDGED = [{**row, "label": at == 0} for at, row in enumerate(ANSWERED)]
ATTRIBUTES = [
    {
        "text": f"<extra_id_0>System\n\n<extra_id_1>User\nq\n<extra_id_1>Assistant\n{a}\n<extra_id_2>",
        "label": [4, x, 0.5],
    }
    for a, x in (("one", -100), ("two", 2))
]
QUESTIONS = [{"prompt": [SYSTEM, *turns_of("q", "a", "q2")], "answer": "7"}, {"prompt": LONG, "answer": None}]

OWN = {
    "messages": CHATS, "chats": NEMO, "completions": ANSWERED, "preferences": PAIRS, "kto_labels": JUDGED,
    "attributes": ATTRIBUTES, "prompts": QUESTIONS,
}  # fmt: skip
REAL = {
    "gsm8k-train/train.jsonl.gz": ("prompts", {"columns": {"prompt": "question"}}),
    "llamafactory-demo/glaive_toolcall_en_demo.json.gz": ("sharegpt", {}),
    "nemo-aligner/functional/dummy-sft.jsonl": ("chats", {}),
    "nemo-aligner/functional/dummy-dpo.jsonl": ("preferences", {"dialogue": "extra_id"}),
    "nemo-aligner/functional/synthetic-kd.jsonl": ("completions", {}),
    "llamafactory-demo/dpo_en_demo.json.gz": ("sharegpt_preferences", {}),
    "hh-rlhf/harmless-base.test.jsonl.gz": ("hh", {}),
    "llamafactory-demo/kto_en_demo.json.gz": ("kto_messages", {}),
    "nemo-aligner/functional/test-rm.jsonl": ("attributes", {}),
}


def imported(rows: list[Any] | Path, form: str, folder: Path, **settings: Any) -> Dataset:
    file = rows if isinstance(rows, Path) else folder / "rows.jsonl"
    if not isinstance(rows, Path):
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return apply(Jsonl(files=(str(file),), format=form, **settings), [], str(folder / "made"), max_rejected=20)


def read_again(written: Written, folder: Path) -> Dataset:
    form = written.export
    return apply(Jsonl(files=(written.path,), format=form.back, dialogue=form.dialogue), [], str(folder))  # type: ignore[arg-type]


def bare(row: dict[str, Any]) -> bool:
    """Whether no text of a row has white space around it: the texts with marks are read without."""
    texts = [turn["content"] for turn in row["messages"]]
    texts += [row[name] for name in ("response", "chosen", "rejected") if name in row]
    return all(text == text.strip() for text in texts)


def lines_in(path: Path | str) -> list[Any]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def numbers_set_aside(written: Written) -> list[int]:
    beside = Path(f"{written.path}.rejected.jsonl")
    return [line["row"] for line in lines_in(beside)] if beside.exists() else []


def same_rows(dataset: Dataset, written: Written, folder: Path) -> None:
    """The rows that were written come back: ids, turns, answers, and whatever else the format carries."""
    back = read_again(written, folder)
    names = {*written.export.columns(dataset.schema), *IDS} & set(dataset.schema.names) & set(back.schema.names)
    gone = set(numbers_set_aside(written))
    there = [row for at, row in enumerate(dataset.read(sorted(names)).to_pylist()) if at not in gone]
    again = back.read(sorted(names)).to_pylist()
    assert len(there) == len(again) == written.rows and len(gone) == sum(written.rejected.values())
    marked = written.export.dialogue == "extra_id"
    assert [row for row in there if not marked or bare(row)] == [
        row for row, was in zip(again, there, strict=True) if not marked or bare(was)
    ]


def whole_kind(dataset: Dataset, form: str) -> bool:
    """Whether the format carries the kind itself: of a pair its question alone, say, gets another id."""
    back = {"prompts": "prompt_id", "messages": "chat_id", "chats": "chat_id"}.get(EXPORTS[form].back)
    return (back is None or dataset.schema.key == (back,)) and bool(EXPORTS[form].columns(dataset.schema))


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Dataset]:
    return {form: imported(rows, form, tmp_path_factory.mktemp(form)) for form, rows in OWN.items()}


@pytest.mark.parametrize("name", EXPORTS)
def test_own_rows_come_back_as_they_were(name: str, own: dict[str, Dataset], tmp_path: Path) -> None:
    """Unicode, quotes, line breaks, system turns, several turns, rewards, labels, equal rows twice."""
    tried = 0
    for form, dataset in own.items():
        if whole_kind(dataset, name):
            written = export(dataset, name, str(tmp_path / f"{form}.out"), max_rejected=2)
            if written.rows:
                same_rows(dataset, written, tmp_path / f"{form}.back")
                tried += 1
    assert tried


@pytest.mark.parametrize("name", REAL)
def test_rows_of_public_files_come_back_as_they_were(name: str, shared_data: Path, tmp_path: Path) -> None:
    form, settings = REAL[name]
    dataset = imported(shared_data / name, form, tmp_path, **settings)  # type: ignore[arg-type]
    tried = [each for each in EXPORTS if whole_kind(dataset, each)]
    for each in tried:
        written = export(dataset, each, str(tmp_path / each), max_rejected=dataset.num_rows)
        assert sum(written.rejected.values()) < dataset.num_rows or each.endswith(("_text", ".sft"))
        if written.rows:
            same_rows(dataset, written, tmp_path / f"{each}.back")
    assert len(tried) >= 2


def test_tools_reasoning_and_weights_come_back_from_trl(tmp_path: Path) -> None:
    dataset = imported(RICH, "messages", tmp_path)
    written = export(dataset, "trl", str(tmp_path / "out.jsonl"))
    assert written.export.name == "trl.language_modeling" and written.weighted == 1
    same_rows(dataset, written, tmp_path / "back")
    line = lines_in(written.path)[0]
    assert line["tools"] == TOOLS and line["messages"][1]["tool_calls"] == [CALL]
    assert line["messages"][0] == {"role": "user", "content": "2 + 3?"}, "no key without a value"


def test_what_nemo_aligner_would_lose_or_learn_is_set_aside(tmp_path: Path) -> None:
    dataset = imported([*RICH, CHATS[0]], "messages", tmp_path)
    with pytest.raises(DataError, match="2 of 3 rows") as fault:
        export(dataset, "nemo-aligner", str(tmp_path / "out.jsonl"))
    assert "--max-rejected 2" in fault.value.next and not list(tmp_path.glob("*out*"))
    written = export(dataset, "nemo-aligner", str(tmp_path / "out.jsonl"), max_rejected=2)
    assert written.rejected == {"tools": 1, "turn-weight": 1} and numbers_set_aside(written) == [0, 1]
    key = lines_in(f"{written.path}.rejected.jsonl")[0]["chat_id"]
    assert key == dataset.read(["chat_id"])["chat_id"][0].as_py()


def test_the_lines_are_those_of_the_published_shapes(tmp_path: Path) -> None:
    """Against lines written by hand, and the files of NeMo-Aligner's functional tests where they are here."""
    pairs = imported(PAIRS[:1], "preferences", tmp_path / "p")
    expected = {
        "trl.preference_text": {
            "prompt": "one?", "chosen": LONG, "rejected": "2", "score_chosen": 0.1, "score_rejected": -3.0,
        },
        "trl.preference_implicit": {
            "chosen": turns_of("one?", LONG), "rejected": turns_of("one?", "2"),
            "score_chosen": 0.1, "score_rejected": -3.0,
        },
        "nemo_aligner.dpo_text": {
            "prompt": "<extra_id_0>System\n\n<extra_id_1>User\none?\n<extra_id_1>Assistant\n",
            "chosen_response": f"{LONG}\n<extra_id_1>", "rejected_response": "2\n<extra_id_1>",
            "chosen_reward": 0.1, "rejected_reward": -3.0,
        },
    }  # fmt: skip
    for name, line in expected.items():
        written = export(pairs, name, str(tmp_path / name))
        assert lines_in(written.path) == [line]
    rm = export(pairs, "nemo_aligner.rm", str(tmp_path / "rm"))
    texts = [line["text"] for line in lines_in(rm.path)]
    head = "<extra_id_0>System\n\n<extra_id_1>User\none?\n<extra_id_1>Assistant\n"
    assert texts == [f"{head}{answer}\n<extra_id_1>" for answer in (LONG, "2")]
    chats = export(imported(NEMO, "chats", tmp_path / "c"), "nemo-aligner", str(tmp_path / "chats"))
    assert lines_in(chats.path) == NEMO


@pytest.mark.parametrize("name", ["dummy-dpo.jsonl", "test-rm.jsonl"])
def test_nemo_aligners_own_lines_come_out_as_they_were(name: str, shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / "nemo-aligner/functional" / name
    form, settings, to = {
        "dummy-dpo.jsonl": ("preferences", {"dialogue": "extra_id"}, "nemo_aligner.dpo_text"),
        "test-rm.jsonl": ("attributes", {}, "nemo_aligner.regression"),
    }[name]
    dataset = imported(path, form, tmp_path, **settings)  # type: ignore[arg-type]
    written = export(dataset, to, str(tmp_path / "out"))
    lines = [lines_in(file) for file in (path, written.path)]
    assert lines[0] == lines[1]


def test_columns_that_are_not_written_are_counted_and_may_be_kept(tmp_path: Path) -> None:
    rows = [{**row, "topic": topic} for row, topic in zip(ANSWERED, (LONG, None), strict=True)]
    dataset = imported(rows, "completions", tmp_path, keep=("topic",))
    plain = export(dataset, "trl", str(tmp_path / "plain"))
    assert plain.left_out == {"source": 2, "topic": 1}
    assert "source (2 rows), topic (1 row)" in str(plain)
    kept = export(dataset, "trl", str(tmp_path / "kept"), keep=["topic", "source"])
    assert kept.left_out == {} and [line["topic"] for line in lines_in(kept.path)] == [LONG, None]
    for bad in (["messages"], ["prompt"], ["topic", "topic"], ["topics"]):
        with pytest.raises(ConfigError):
            export(dataset, "trl", str(tmp_path / "bad"), keep=bad)


def with_column(column: pa.Array, folder: Path, name: str = "own") -> Dataset:
    """Two answered prompts with one more column."""
    rows = imported(ANSWERED, "completions", folder)
    schema = rows.schema.adding(Column(name, column.type, "of the test", nullable=True))
    return Dataset.from_arrow(rows.read().append_column(name, column), schema, str(folder / "more"))


@pytest.mark.parametrize(
    ("column", "written"),
    [
        (pa.array([date(2024, 1, 2), None]), ["2024-01-02", None]),
        (pa.array([datetime(2024, 1, 2, 3, 4, 5), None], pa.timestamp("us")), ["2024-01-02 03:04:05.000000", None]),
        (pa.array([2**64 - 1, 0], pa.uint64()), [2**64 - 1, 0]),
        (pa.array([True, None]), [True, None]),
    ],
    ids=str,
)
def test_a_kept_column_of_any_plain_type_is_json(column: pa.Array, written: list[Any], tmp_path: Path) -> None:
    out = export(with_column(column, tmp_path), "trl", str(tmp_path / "out"), keep=["own"])
    assert [line["own"] for line in lines_in(out.path)] == written


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.duration("s"), pa.list_(pa.int64())], ids=str)
def test_a_column_that_has_no_json_is_not_kept(kind: pa.DataType, tmp_path: Path) -> None:
    made = with_column(pa.nulls(2, kind), tmp_path)
    with pytest.raises(ConfigError, match="own cannot become a key"):
        export(made, "trl", str(tmp_path / "out"), keep=["own"])


INJECTED = '[1,2]}\n{"prompt":"injected"'


@pytest.mark.parametrize("to", ["trl.prompt_completion", "trl.prompt_completion_text", "nemo_aligner.sft"])
def test_tools_that_are_no_json_are_set_aside(to: str, tmp_path: Path) -> None:
    rows = imported([{"prompt": "one?", "response": str(at)} for at in range(3)], "completions", tmp_path)
    tools = pa.array([INJECTED, None, "[]" if to.startswith("trl") else None])
    table = rows.read()
    table = table.set_column(table.column_names.index("tools"), "tools", tools)
    made = Dataset.from_arrow(table, rows.schema, str(tmp_path / "more"))
    out = export(made, to, str(tmp_path / "out"), max_rejected=1)
    assert out.rows == len(lines_in(out.path)) == 2 and out.rejected == {"bad-json": 1}
    assert "injected" not in Path(out.path).read_text()
    assert [line["row"] for line in lines_in(f"{out.path}.rejected.jsonl")] == [0]


def test_tools_and_calls_in_several_lines_are_one_line_of_the_same_value(tmp_path: Path) -> None:
    rows = imported(RICH, "messages", tmp_path)
    table, pretty = rows.read(), json.dumps([*TOOLS, "\u2028\x85"], indent=2, ensure_ascii=False)
    chats = table["messages"].to_pylist()
    chats[0][1]["tool_calls"] = json.dumps([CALL], indent=2).replace("\n", "\r\n")
    chats[1][0]["tool_calls"] = INJECTED
    columns = {"tools": pa.array([pretty, None]), "messages": pa.array(chats, table.schema.field("messages").type)}
    for name, column in columns.items():
        table = table.set_column(table.column_names.index(name), name, column)
    made = Dataset.from_arrow(table, rows.schema, str(tmp_path / "more"))
    out = export(made, "trl", str(tmp_path / "out"), max_rejected=1)
    (line,) = lines_in(out.path)
    assert line["tools"] == [*TOOLS, "\u2028\x85"] and line["messages"][1]["tool_calls"] == [CALL]
    assert line["messages"] == RICH[0]["messages"] and out.rejected == {"bad-json": 1}


def test_weights_that_say_what_holds_anyway_are_all_that_nemo_aligners_pairs_lose(tmp_path: Path) -> None:
    """Where a weight says more, its row is set aside; what comes back has the ids and all but the weights."""

    def sides(*weights: float) -> dict[str, Any]:
        texts = [("system", "s"), ("user", "q"), ("assistant", "a"), ("user", "r")]
        asked = [
            {"role": role, "content": [{"type": "text", "value": text}], "loss_weight": weight}
            for (role, text), weight in zip(texts, weights, strict=True)
        ]
        ends = [{"role": "assistant", "content": end, "loss_weight": 1.0} for end in ("better", "worse")]
        return {"chosen_messages": [*asked, ends[0]], "rejected_messages": [*asked, ends[1]]}

    dataset = imported([sides(0, 0, 1, 0), sides(0, 0, 0, 0)], "preference_chats", tmp_path)
    written = export(dataset, "nemo_aligner.dpo", str(tmp_path / "out"), max_rejected=1)
    assert written.rejected == {"turn-weight": 1} and numbers_set_aside(written) == [1]
    there, again = dataset.read().to_pylist()[0], read_again(written, tmp_path / "back").read().to_pylist()[0]
    weights = [[turn.pop("weight") for turn in row["messages"]] for row in (there, again)]
    assert weights == [[0.0, 0.0, 1.0, 0.0], [None] * 4]
    assert {**there, "source": None} == {**again, "source": None}


def test_nothing_is_overwritten_and_nothing_half_is_left(tmp_path: Path) -> None:
    dataset = imported(ANSWERED, "completions", tmp_path)
    target = tmp_path / "out.jsonl"
    target.write_text("mine")
    with pytest.raises(ConflictError):
        export(dataset, "trl", str(target))
    assert target.read_text() == "mine"
    made = Path(dataset.url) / dataset.shards[0].path
    made.write_bytes(made.read_bytes()[:-100])
    with pytest.raises(Exception, match="part-00000"):
        export(Dataset.open(dataset.url), "trl", str(tmp_path / "new" / "out.jsonl"))
    assert not (tmp_path / "new").exists()
    (tmp_path / "own").mkdir()
    with pytest.raises(Exception, match="part-00000"):
        export(Dataset.open(dataset.url), "trl", str(tmp_path / "own" / "more" / "out.jsonl"))
    assert list((tmp_path / "own").iterdir()) == [], "what was there stays, what was made goes"


@pytest.mark.parametrize("what", ["a folder", "no regular file", "a link", "inside the published folder"])
def test_a_place_that_can_be_no_new_file_is_a_wrong_flag(what: str, tmp_path: Path) -> None:
    dataset, place = imported(ANSWERED, "completions", tmp_path), tmp_path / "place"
    if what == "a folder":
        place.mkdir()
    elif what == "a link":
        place.symlink_to(tmp_path / "rows.jsonl")
    elif what == "no regular file":
        os.mkfifo(place)
    else:
        place = Path(dataset.url) / "deeper" / "part-00001.parquet"
    with pytest.raises(ConfigError, match=what) as caught:
        export(dataset, "trl", str(place))
    assert (caught.value.slug, caught.value.code) == ("not-a-file", 2) and caught.value.next == "--out rows.jsonl"
    assert not (Path(dataset.url) / "deeper").exists()


def test_a_column_that_is_kept_twice_has_no_near_name(tmp_path: Path) -> None:
    dataset = imported(ANSWERED, "completions", tmp_path)
    with pytest.raises(ConfigError, match="keep: prompt_id is named twice\n"):
        export(dataset, "trl", str(tmp_path / "x.jsonl"), ["prompt_id", "prompt_id"])


def test_rows_that_no_format_of_a_toolkit_takes(tmp_path: Path) -> None:
    dataset = imported(QUESTIONS, "prompts", tmp_path)
    with pytest.raises(ConfigError) as fault:
        export(dataset, "trl.preference", str(tmp_path / "out"))
    assert "messages + chosen + rejected" in fault.value.expected and "--to trl.prompt_only" in fault.value.next
    with pytest.raises(ConfigError, match="did you mean"):
        export(dataset, "trll", str(tmp_path / "out"))


def test_many_rows_go_through_in_batches(tmp_path: Path) -> None:
    """Twenty thousand rows in several batches: every line once, in order."""
    rows = [{"prompt": f"question {at}", "response": f"answer {at}"} for at in range(20_000)]
    dataset = imported(rows, "completions", tmp_path)
    written = export(dataset, "trl.prompt_completion_text", str(tmp_path / "out"))
    assert lines_in(written.path) == [{"prompt": row["prompt"], "completion": row["response"]} for row in rows]
