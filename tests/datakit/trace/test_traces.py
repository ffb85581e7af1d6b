"""Rows are traced as their files say: three small iterations of a made-up run, and what hostile ids and names do."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from datakit.catalog.ask import workspace_process
from datakit.catalog.workspace import read_workspace
from datakit.op import Context
from datakit.tokenize import Pack
from datakit.trace.fed import Fed
from datakit.trace.row_trace import Tracer
from datakit.trace.withdrawn import reached
from quiver import console
from schemas import PREFERENCES, PROMPTS, SAMPLES, TOKENS, Dataset, Schema
from schemas.errors import ConfigError, QuiverError
from schemas.manifest import MANIFEST, Manifest, Parent
from schemas.rows.records import records_of
from tests.datakit.catalog.workspaces import REWARDED, Maker, rewarded, samples
from tests.datakit.trace.answers import agree, fed_agrees

ANSI = "\x1b[31m'; DROP TABLE x; --\u202e"


def trained(
    make: Maker, place: str, data: Dataset, steps: Sequence[tuple[str, int]], *more: Parent,
    op: str = "train.sft", key: str = "",
) -> Parent:  # fmt: skip
    """A checkpoint of `data`, with records of these ids (of rows by `key`) and steps."""
    key = key or (data.schema.key or ("sample_id",))[0]
    rows = [
        {key: row, "step": step, "epoch": 0, "source": None, "weight": 2.0, "loss": step / 4} for row, step in steps
    ]
    schema = records_of(key)
    parents = (data.as_parent("data"), *more)
    made = Manifest(kind="checkpoint", op={"name": op, "version": 1, "params": {}}, parents=parents,
                    task_key=place.encode().hex().ljust(64, "0")[-64:],
                    runtime_info={"created": f"2026-11-28T07:00:{make.clock:02d}+00:00"})  # fmt: skip
    folder = make.root / place
    folder.mkdir(parents=True)
    (folder / MANIFEST).write_bytes(made.to_bytes())
    records = pa.Table.from_pylist(rows, schema=schema.arrow)
    make(f"{place}.records", schema, records, op="train.sft.records", facts={"missing_steps": []})
    return Parent("init", str(folder), made.content_digest, made.task_key)


def tokens(ids: Sequence[str], schema: Schema = TOKENS) -> pa.Table:
    rows = schema.example(len(ids))
    place = rows.column_names.index("sample_id")
    return rows.set_column(place, rows.schema.field(place), pa.array(ids, pa.string()))


@pytest.fixture
def run(make: Maker) -> Maker:
    """Three iterations: samples, rewards, kept (two set aside), tokens, a policy; pairs of the first; ids that bite."""
    before: tuple[Parent, ...] = ()
    for number in (1, 2, 3):
        at = f"rest/digits/iter={number}"
        drawn = samples(6, 10 * number)
        if number == 3:
            ids = pa.array([ANSI, *(f"s{30 + n}" for n in range(1, 6))])
            drawn = drawn.set_column(drawn.column_names.index("sample_id"), drawn.schema.field("sample_id"), ids)
        first = make(f"{at}/samples-0000000{number}", SAMPLES, drawn, op="generate.complete")
        scored = rewarded(drawn, [n / 10 for n in range(6)])
        rewards = make(f"{at}/rewards-0000000{number}", REWARDED, scored, first, op="label.reward")
        why = {"reason": ["below"] * 2, "value": [0.0, 0.1], "threshold": ["> 0.15"] * 2}
        aside = scored[:2]
        for name, values in why.items():
            aside = aside.append_column(name, pa.array(values))
        kept = make(f"{at}/kept-0000000{number}", REWARDED, scored[2:], rewards, op="filter.threshold",
                    params={"minimum_quantile": 0.4}, rejected=aside)  # fmt: skip
        ids = kept.read(["sample_id"])["sample_id"].to_pylist()
        rows = make(f"{at}/tokens-0000000{number}", TOKENS, tokens(ids[:3]), kept, op="tokenize.mask")
        before = (
            trained(make, f"{at}/policy-0000000{number}", rows, [(ids[0], 1), (ids[1], 2), (ids[0], 3)], *before),
        )
        if number == 1:
            pairs = PREFERENCES.example(1)
            for side, one in (("chosen_sample_id", ids[3]), ("rejected_sample_id", ids[0])):
                place = pairs.column_names.index(side)
                pairs = pairs.set_column(place, pairs.schema.field(place), pa.array([one]))
            made = make("dpo/pairs-00000001", PREFERENCES, pairs, kept, op="blend.pair")
            trained(make, "dpo/policy-00000001", made, [(pairs["pair_id"][0].as_py(), 1)])
    return make


def test_a_row_is_traced_as_its_files_say(run: Maker) -> None:
    counts = agree(run.root, 12)
    assert counts.keys() == {"created", "kept", "dropped", "left out", "trained", "not reached"}


def test_the_rows_of_a_checkpoint_are_those_of_its_files(run: Maker) -> None:
    assert fed_agrees(run.root) == 4


def test_what_a_row_reaches_is_trained_again(run: Maker) -> None:
    with workspace_process(run.root) as process:
        matches = [*reached(Tracer(read_workspace(str(run.root)), process), {("sample_id", "s12")})]
    assert {(one.entry.name, one.reach) for one in matches if one.again} == {
        ("rest/digits/iter=1/policy", "learnt"),
        ("dpo/policy", "learnt"),
        ("rest/digits/iter=2/policy", "stands on"),
        ("rest/digits/iter=3/policy", "stands on"),
    }


def test_rows_in_packs_were_learnt_one_by_one_and_packs_are_no_rows(make: Maker) -> None:
    """What training saw of packs is of the rows inside: a pack was neither missed by all steps nor learnt by one."""
    rows = tokens(["a", "b", "c"])
    op, data = Pack(capacity=2 * max(map(len, rows["input_ids"].to_pylist()))), make("own/t-00000001", TOKENS, rows)
    packed = op.gather(rows, Context()).rows
    packs = make("own/packs-00000001", op.gives(TOKENS), packed, data, op=op.name)
    trained(make, "own/policy-00000001", packs, [("a", 1), ("b", 1), ("c", 2), ("a", 3)], key="sample_id")
    alone = packed["pack_id"][0].as_py()
    with workspace_process(make.root) as process:
        workspace = read_workspace(str(make.root))
        tracer = Tracer(workspace, process)
        learnt = {
            row: [
                (one.kind, one.row, [step["step"] for step in one.steps])
                for one in tracer.trace(row).events
                if one.entry.made.kind == "checkpoint"
            ]
            for row in (("sample_id", "a"), ("pack_id", alone))
        }
        [checkpoint] = [one for one in workspace.entries if one.made.kind == "checkpoint"]
        fed = Fed(tracer, process, checkpoint)
        came = {one["id"]: (one["count"], one["steps"]) for one in fed.rows(fed.passed())}
        totals, key = fed.totals(), fed.key
    assert packed.num_rows == 2
    assert learnt["sample_id", "a"] == [("trained", ("sample_id", "a"), [1, 3])]
    assert learnt["pack_id", alone] == [("no records", ("pack_id", alone), [])]
    assert (key, came) == ("sample_id", {"a": (1, [1, 3]), "b": (1, [1]), "c": (1, [2])})
    assert totals == {"rows": 3, "ids": 3, "records": 4, "steps": 3, "learnt": 3}


def test_a_row_that_was_set_aside_was_not_learnt(run: Maker) -> None:
    """But a quantile was measured over it."""
    with workspace_process(run.root) as process:
        matches = [*reached(Tracer(read_workspace(str(run.root)), process), {("sample_id", "s10")})]
    assert not [one for one in matches if one.again]
    assert ("rest/digits/iter=1/policy", "made of") in {(one.entry.name, one.reach) for one in matches}


def test_a_hostile_id_is_an_id_and_steers_no_terminal(
    run: Maker, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert console.run(["why", ANSI, "--root", str(run.root)]) == 0
    text = capsys.readouterr().out
    assert "\x1b" not in text and "\u202e" not in text
    assert "DROPPED by filter.threshold: below, 0 against > 0.15" in " ".join(text.split())
    for words in (["why", "s12"], ["why", "rest/digits/iter=2/policy"], ["why", "s12", "s22", "--withdrawn"]):
        assert console.run([*words, "--root", str(run.root)]) == 0
        text = capsys.readouterr().out.replace(str(run.root), "root")  # a place is one word, however long
        assert max(map(len, text.splitlines())) <= 80
        assert console.run([*words, "--json", "--root", str(run.root)]) == 0
        assert json.loads(capsys.readouterr().out)


def test_an_id_that_is_nowhere_or_that_two_kinds_of_rows_have_is_an_error(run: Maker) -> None:
    with workspace_process(run.root) as process, pytest.raises(ConfigError, match="no row has the id"):
        Tracer(read_workspace(str(run.root)), process).identified("s1'2")
    with workspace_process(run.root) as process, pytest.raises(ConfigError, match="no row has the id"):
        Tracer(read_workspace(str(run.root)), process).identified("s\udcff")  # a byte that is no UTF-8
    run("own/other-00000001", SAMPLES, tokens(["prompt_id 0"], SAMPLES), op="io.jsonl")
    prompt = Dataset.open(str(run.root / "own/other-00000001")).read(["prompt_id"])["prompt_id"][0].as_py()
    run("own/same-00000001", SAMPLES, tokens([prompt], SAMPLES), op="io.jsonl")
    with workspace_process(run.root) as process:
        tracer = Tracer(read_workspace(str(run.root)), process)
        with pytest.raises(ConfigError, match="several kinds"):
            tracer.identified(prompt)
        assert tracer.identified(prompt, "sample_id") == ("sample_id", prompt)


def test_a_damaged_result_is_named_and_a_false_manifest_refused(run: Maker, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run.root / "rest/digits/iter=1/kept-00000001"
    shard = next(folder.glob("part-*"))
    data = shard.read_bytes()
    shard.write_bytes(data[:-5])
    assert console.run(["why", "s12", "--root", str(run.root)]) == 0
    assert "not looked at: rest/digits/iter=1/kept-00000001" in capsys.readouterr().out
    shard.write_bytes(bytes(len(data)))
    with pytest.raises(QuiverError, match="cannot be read"):
        console.run(["why", "s12", "--root", str(run.root)])


def test_records_that_lack_steps_prove_nothing(run: Maker) -> None:
    place = run.root / "rest/digits/iter=1/policy-00000001.records" / MANIFEST
    whole = Manifest.from_bytes(Path(place).read_bytes(), "records")
    place.write_bytes(dataclasses.replace(whole, facts={"missing_steps": [[4, 9]]}).to_bytes())
    with workspace_process(run.root) as process:
        events = Tracer(read_workspace(str(run.root)), process).trace(("sample_id", "s14")).events
    assert [one.kind for one in events if one.entry.name.endswith("iter=1/policy")] == ["no records"]


def test_every_row_is_asked_of_the_checkpoint_that_was_meant(run: Maker, capsys: pytest.CaptureFixture[str]) -> None:
    """Of the variant, in the workspace that was named: not of the last run of that name."""
    rows = Dataset.open(str(run.root / "rest/digits/iter=3/tokens-00000003"))
    trained(run, "rest/digits/iter=3/policy-00000009", rows, [("s32", 1)])
    for place, steps in (("rest/digits/iter=3/policy-00000003", 3), ("rest/digits/iter=3/policy-00000009", 1)):
        assert console.run(["why", place, "--root", str(run.root)]) == 0
        words = " ".join(capsys.readouterr().out.split()).partition("every row: ")[2]
        assert console.run(shlex.split(words)[1:]) == 0
        listed = json.loads(capsys.readouterr().out)
        assert (listed["checkpoint"], listed["records"]) == (place, steps)


def test_answers_that_an_online_run_drew_are_followed(make: Maker, capsys: pytest.CaptureFixture[str]) -> None:
    """They are of no dataset of its data, which holds prompts: what it saw names them."""
    prompts = PROMPTS.example(2)
    ids = prompts["prompt_id"].to_pylist()
    asked = make("grpo/x/prompts-00000001", PROMPTS, prompts, op="io.jsonl")
    place = "grpo/x/policy-00000002"
    policy = trained(make, place, asked, [("s1", 1), ("s2", 1), ("s1", 2)], op="online", key="sample_id")
    after = make("grpo/x/answers-00000003", SAMPLES, samples(1, 50), op="generate.complete",
                 facts={"generator": policy.task_key})  # fmt: skip
    root = ["--root", str(make.root)]

    def printed(*words: str) -> Any:
        assert console.run([*words, *root]) == 0
        return capsys.readouterr().out

    [event] = json.loads(printed("why", "s1", "--json"))["events"]
    assert (event["kind"], [one["step"] for one in event["steps"]]) == ("trained", [1, 2])
    text = " ".join(printed("why", "s1").split())
    assert f"TRAINED in steps 1, 2: loss 0.25, 0.5; weight 2; drawn in {place}.run/rollouts" in text
    assert "a prompt of this online run" in " ".join(printed("why", ids[0]).split())
    for row in ("s2", ids[0]):
        reached = {one["place"]: one["reach"] for one in json.loads(printed("why", row, "--withdrawn", "--json"))}
        assert (reached[place], reached["grpo/x/answers-00000003"]) == ("learnt", "stands on"), after.url
    fed = json.loads(printed("why", "grpo/x/policy", "--json"))["ids_with_steps"]
    by_key = [(one["key"], one["id"], one["count"], one["steps"]) for one in fed]
    assert by_key == [*(("prompt_id", one, 1, None) for one in sorted(ids)),
                      ("sample_id", "s1", 0, [1, 2]), ("sample_id", "s2", 0, [1])]  # fmt: skip
    assert "2 answers that it drew were learnt 3 times in 2 steps." in " ".join(printed("why", "grpo/x/policy").split())
