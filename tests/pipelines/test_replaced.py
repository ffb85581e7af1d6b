"""What a result was made of has been made anew with other content: the result is refused, and kept as it is."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from commands import environment

from datakit.apply import apply
from pipelines.commands import command
from pipelines.graph.node import Node
from pipelines.graph.plan import Plan
from pipelines.runtime import reuse
from pipelines.runtime.targets import NodeTarget
from schemas.errors import ConflictError
from schemas.manifest import Manifest, Parent
from schemas.store.commit import begin_attempt, publish_folder, read_manifest
from tests.pipelines.toy import Above, Base, Count, Draw

CHANCE = """
from pathlib import Path
def score(response):
    turn = Path("turn.txt")
    turn.write_text(turn.read_text() + "+" if turn.exists() else "+")
    return [0.6 + 0.1 * len(turn.read_text()) for _ in response]
"""


PROGRAM = """
import contextlib, io, json, shlex, shutil, subprocess
import pipelines
from pipelines.runtime import command
from schemas import Dataset

def do(*words):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = command.run(["--module", "pipelines", *words]) and 0
        except SystemExit as ended:
            code = ended.code
    return code, out.getvalue().split()[-1:], err.getvalue()

def main():
    label = ("Label", "--data", "rows.jsonl", "--op", "reward", "--model", "chance:score")
    _, [rewards], notes = do(*label)
    keep = ("Filter", "--data", rewards, "--op", "where", "--params", '{"predicate": "reward > 0"}')
    _, [kept], _ = do(*keep)
    before = Dataset.open(kept).read()["reward"].to_pylist()
    shutil.rmtree(rewards)
    again = do(*label)[1] == [rewards]
    code, _, error = do(*keep)
    after = Dataset.open(kept).read()["reward"].to_pylist()
    removing, _, repeating = error.partition("next: ")[2].strip().replace("\\\\\\n", "").partition(" && ")
    subprocess.run(shlex.split(removing), check=True)
    do(*shlex.split(repeating)[3:])
    anew = Dataset.open(kept).read()["reward"].to_pylist()
    print(json.dumps([notes, again, before, code, error, after, anew]))

if __name__ == "__main__":
    main()
"""


@pytest.mark.slow
def test_a_filter_over_rewards_that_were_made_anew_is_not_there_already(tmp_path: Path) -> None:
    (tmp_path / "chance.py").write_text(CHANCE)
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "Say it.", "response": "it"}) + "\n")
    words = [sys.executable, "program.py"]
    done = subprocess.run(words, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    notes, again, before, code, error, after, anew = json.loads(done.stdout)
    assert "chance:score may answer otherwise another time: what it answers once is kept" in notes and again
    assert code == 15 and "error[15/input-replaced]" in error, error
    assert [before, after, anew] == [[pytest.approx(value)] for value in (0.7, 0.7, 0.8)], "kept until it is removed"


def put(node: Node, content: str, *parents: Parent) -> Parent:
    """Publish at the node's place what has no rows and this content; it as a parent called `content`."""
    manifest = Manifest(
        kind=node.kind, schema=node.schema, task_key=node.task_key, facts={"content": content}, parents=parents
    )
    publish_folder(node.url, begin_attempt(node.url), manifest)
    return Parent(content, node.url, manifest.content_digest, node.task_key)


def as_parent(name: str, made: Parent) -> Parent:
    return Parent(name, made.url, made.content_digest, made.task_key)


@pytest.fixture
def rows(tmp_path: Path) -> tuple[Plan, Node]:
    plan = Plan(str(tmp_path / "data"))
    return plan, plan.table("toy/drawn", Draw(), plan.table("toy/counted", Count(rows=3)))


@pytest.mark.parametrize("standing", ["planned", "existing"])
def test_a_table_stands_with_what_it_was_made_of(rows: tuple[Plan, Node], standing: str) -> None:
    plan, drawn = rows
    made = put(drawn, "first")

    def kept() -> Node:
        given = drawn if standing == "planned" else Plan(plan.root).existing(drawn.url, "dataset")
        return Plan(plan.root).table("toy/kept", Above(minimum=0.5), given)

    put(kept(), "kept", as_parent("0", made))
    assert NodeTarget(kept()).exists(), "the same digest"
    same = NodeTarget(kept())
    shutil.rmtree(drawn.url)
    assert same.exists(), "finished results need no inputs"
    put(drawn, "first")
    assert NodeTarget(kept()).exists(), "made anew with the same content"
    shutil.rmtree(drawn.url)
    other = put(drawn, "second")
    with pytest.raises(ConflictError) as fault:
        NodeTarget(kept()).exists()
    error, digests = fault.value, [f"digest {one.content_digest[:12]}" for one in (made, other)]
    assert (error.slug, error.where) == ("input-replaced", drawn.url)
    assert [error.expected, error.found] == digests
    assert error.next.startswith("rm -r ") and error.next.endswith(kept().url.rsplit("/", 1)[-1])
    Path(drawn.url, "_manifest.json").write_bytes(b"torn")
    assert standing == "existing" or NodeTarget(kept()).exists(), "it cannot be read: nothing is known against it"


@pytest.mark.parametrize("role", ["data", "init"])
def test_a_checkpoint_stands_with_the_data_and_the_checkpoint_it_started_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "a", "response": "b", "reward": 1.0}) + "\n")
    plan = Plan(str(tmp_path / "data"))
    first = next(node for node in Base().build(plan) if node.kind == "checkpoint")
    training = replace(first.training, learning=replace(first.training.learning, model=None))  # type: ignore[attr-defined]
    node = plan.model("policy", training, data=first.data, tokenizer=first.tokenizer, init=first)  # type: ignore[attr-defined]
    stand = {"data": put(node.data, "data"), "init": put(first, "init")}
    put(node, "policy", *(as_parent(name, made) for name, made in stand.items()))
    Path(f"{node.url}.records").mkdir()
    assert NodeTarget(node).exists()
    parent = node.parents[role]
    shutil.rmtree(parent.url)
    assert NodeTarget(node).exists()
    put(parent, "another")
    with pytest.raises(ConflictError, match="was made from other content") as fault:
        NodeTarget(node).exists()
    name = node.url.rsplit("/", 1)[-1]
    assert fault.value.next == f"rm -r data/{name} data/{name}.records"


def test_what_lies_under_another_label_is_linked_only_where_it_was_made_of_the_same(rows: tuple[Plan, Node]) -> None:
    plan, drawn = rows
    one = plan.table("one/kept", Above(minimum=0.5), drawn)
    made = put(drawn, "first")
    put(one, "kept", as_parent("0", made))
    assert reuse.linked(plan.table("two/kept", Above(minimum=0.5), drawn)) == one.url
    shutil.rmtree(drawn.url)
    put(drawn, "second")
    assert reuse.linked(plan.table("three/kept", Above(minimum=0.5), drawn)) == ""


def test_planning_reads_no_manifest_twice(rows: tuple[Plan, Node], monkeypatch: pytest.MonkeyPatch) -> None:
    plan, drawn = rows
    parent = as_parent("0", put(drawn, "rows"))
    ends = [plan.table(f"toy/kept{number}", Above(minimum=number / 10), drawn) for number in range(5)]
    for end in ends:
        put(end, end.label, parent)
    reads = Counter[str]()

    def counting(url: str) -> Manifest | None:
        reads[url] += 1
        return read_manifest(url)

    monkeypatch.setattr(command, "read_manifest", counting)
    todo, reused = command.outstanding(ends)
    assert todo == [] and reused == ends
    assert reads == Counter([drawn.url, *(end.url for end in ends)])


def test_apply_takes_no_result_over_other_rows_for_its_own(tmp_path: Path) -> None:
    places = [str(tmp_path / name) for name in ("first", "second")]
    first, second = (
        apply(Draw(), [apply(Count(rows=3), [], f"{place}-counted")], place, seed=seed, task_key="ab" * 32)
        for seed, place in enumerate(places)
    )
    into = str(tmp_path / "kept")
    kept = apply(Above(minimum=0.0), [first], into)
    assert apply(Above(minimum=0.0), [first], into).content_digest == kept.content_digest
    with pytest.raises(ConflictError, match="input-replaced"):
        apply(Above(minimum=0.0), [second], into)
