"""`quiver check`: every fault of a command that can be known before it runs, and what it would do; `--dry-run`."""

from __future__ import annotations

import json
import resource
import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from small_model import write

import pipelines
from pipelines.commands import checking
from pipelines.commands.outlook import room
from pipelines.graph.faults import Faults, RefusedTable, spoilt
from pipelines.graph.plan import Plan
from pipelines.graph.resolve import rows_at
from pipelines.runtime.command import run
from pipelines.runtime.token_estimate import TokenEstimate
from schemas import TOKENS, Dataset
from schemas.errors import ConfigError
from schemas.manifest import MANIFEST, Manifest
from tests.model_server import ModelServer

NEVER = 9
"""A port of the discard service, where nobody listens."""

WIDE = json.dumps({"num_layers": 400, "hidden_size": 65536, "ffn_hidden_size": 262144, "num_attention_heads": 64})
REFUSING = "{% for message in messages %}{{ raise_exception('not this') }}{% endfor %}"
OWN = "RestIteration --setup own --own-prompts prompts.jsonl --prompts-per-iteration 2"

PLANTED = {
    "unknown column in a predicate": (
        """Filter --data rows.jsonl --format completions --op where --params '{"predicate": "rewrd > 0"}'""",
        (2, "unknown-column", "rewrd"),
    ),
    "wrong type in a predicate": (
        """Filter --data rows.jsonl --format completions --op where --params '{"predicate": "messages > 3"}'""",
        (2, "predicate-binding", "messages"),
    ),
    "missing template": ("Sft --model plain --data rows.jsonl", (2, "no-template", "has no chat template")),
    "template that fails": (
        f"Sft --model model --data rows.jsonl --template {shlex.quote(REFUSING)}",
        (10, "template-failed", "not this"),
    ),
    "tokenizer of another model": ("Train --data other --model model", (10, "wrong-tokenizer", "another tokenizer")),
    "longer than positions": (
        "Generate --model model --prompts prompts.jsonl --max-length 65 --max-new-tokens 8",
        (2, "beyond-model", "the 64 tokens"),
    ),
    "rows longer than positions": ("Train --data long --model model", (10, "too-long", "holds a row of 70 tokens")),
    "no room for a question": (
        "Generate --model model --prompts prompts.jsonl --max-new-tokens 64",
        (2, "no-room", "leave no room"),
    ),
    "world size not divisible": (
        "Train --data short --model model --ranks 3 --set parallel.tensor=2",
        (2, "parallel-size", "3 ranks do not fill"),
    ),
    "unreachable server": (
        f"Generate --model http://localhost:{NEVER}/v1#m --prompts prompts.jsonl",
        (13, "no-answer", f"localhost:{NEVER}"),
    ),
    "missing file": ("Sft --model model --data absent.jsonl", (2, "no-such-file", "absent.jsonl")),
    "broken first rows": ("Import --files broken.jsonl --format prompts", (10, "broken-json", "broken.jsonl")),
    "too little disk": (f"RestIteration --digits-architecture {shlex.quote(WIDE)}", (12, "no-space", "free")),
    "unknown operation": ("Label --data rows.jsonl --op lenght", (2, "unknown-op", "lenght")),
    "unknown setting": ("RestIteration --set optim.lrr=1e-3", (2, "unknown-key", "lrr")),
    "wrong threshold kind": ("RestIteration --threshold-kind quantil", (2, "bad-parameter", "--threshold-kind")),
    "policy that is a bare address": (
        "Generate --model http://localhost:8000/v1 --prompts prompts.jsonl",
        (2, "bad-address", "does not say which model"),
    ),
    "thresholds that fall": ("RestIteration --thresholds '[0.6, 0.3]'", (2, "bad-setting", "thresholds rise")),
    "reward model that is none": (
        f"{OWN} --own-model model --own-reward model",
        (2, "no-reward-model", "language model"),
    ),
}
"""Errors of a plan: the command, and the exit code, the name and words of the fault."""


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files, models and token rows that have nothing to do with them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "argv", ["quiver"])
    for name, kind in (("model", "LlamaForCausalLM"), ("plain", "LlamaForCausalLM")):
        write(tmp_path / name, kind)
    (tmp_path / "plain" / "tokenizer_config.json").write_text("{}")
    rows = [{"prompt": f"q {number}", "response": "a"} for number in range(4)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": row["prompt"]}) + "\n" for row in rows * 5))
    (tmp_path / "broken.jsonl").write_text('{"prompt": "q"}\nnot JSON\n')
    _tokens(tmp_path)
    return tmp_path


def _tokens(folder: Path) -> None:
    """`short` and `long`, of nobody knows which tokenizer, the latter with 70 tokens; `other` of another one."""
    for name, length in (("short", 8), ("long", 70)):
        table = pa.table({"sample_id": ["one"], "input_ids": [[1] * length], "loss_mask": [[0] + [1] * (length - 1)]})
        Dataset.from_arrow(TOKENS.conform(table), TOKENS, str(folder / name))
    (folder / "other").mkdir()
    other = Manifest(kind="dataset", schema=TOKENS, facts={"tokenizer": "0" * 64}, task_key="1" * 64)
    (folder / "other" / MANIFEST).write_bytes(other.to_bytes())


def checked(capsys: pytest.CaptureFixture[str], given: str) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    code = checking.main([*shlex.split(given), "--json"])
    return code, json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_error_of_a_plan_is_found_before_anything_runs(
    name: str, planted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given, (code, slug, words) = PLANTED[name]
    before = sorted(planted.rglob("*"))
    ended, listing = checked(capsys, given)
    assert ended == code, listing["faults"]
    assert [fault["slug"] for fault in listing["faults"]] == [slug], listing["faults"]
    [fault] = listing["faults"]
    assert words in " ".join([fault["what"], fault["found"], fault["where"]]) and fault["code"] == code
    assert fault["next"] and "error" not in fault["next"]
    assert sorted(planted.rglob("*")) == before


def test_of_a_file_that_no_format_reads_one_import_is_listed(planted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And not one, with a fault of its own, for each format that was tried."""
    (planted / "asked.jsonl").write_text('{"prompt": "q", "answer": "a"}\n' * 4)
    code, listing = checked(capsys, "Sft --model model --data asked.jsonl")
    assert [one["stage"] for one in listing["stages"]].count("imported/asked") == 1
    assert {fault["slug"] for fault in listing["faults"]} == {"wrong-rows", "missing-key"} and code == 2
    assert {fault["found"].partition(" (there")[0].split("(")[1] for fault in listing["faults"]} == {
        "response | output | completion"
    }
    assert all("""--columns '{"response": "answer"}'""" in fault["next"] for fault in listing["faults"])


def test_several_faults_are_all_listed_each_once(planted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of flags, of the setup, of places, of a server and of the recipe; one of every iteration once."""
    given = (
        f"RestIteration --iteration 3 --setup own --own-model http://localhost:{NEVER}/v1#m --own-prompts absent.jsonl "
        "--own-reward http://localhost:8000/v1 --thresholds '[0.6, 0.3]' --threshold-kind quantil --set lrr=1 "
        "--own-held-out x --own-max-new-tokens 4096"
    )
    code, listing = checked(capsys, given)
    slugs = [fault["slug"] for fault in listing["faults"]]
    expected = ["bad-parameter", "unknown-key", "bad-setting", "bad-address", "no-such-file", "no-room", "bad-setting"]
    assert slugs == [*expected, "no-answer"] and code == 2
    assert listing["stages"] and not Path("quiver-data").exists()


MISSING = {
    "Sft --model absent --data none.jsonl": ["not-found", "no-such-file"],
    "Label --op judge --model absent --data none.jsonl": ["no-such-file", "not-found"],
    """Blend --data a,b --op mix --params '{"sources": ["a", "b"], "weights": [1, 1]}'""": ["no-such-file"] * 2,
    "Distill --model absent --teacher gone --data rows.jsonl": ["not-found", "not-found"],
    "Grpo --setup own --own-model absent --own-prompts none.jsonl --own-reward no_such:score --set lrr=1": [
        *("unknown-key", "not-found", "no-function", "no-such-file")
    ],
}
"""Commands that name several things that are not there, and their faults."""


@pytest.mark.parametrize("given", MISSING)
def test_what_is_missing_is_stood_in_for_and_the_rest_looked_at(
    given: str, planted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, listing = checked(capsys, given)
    assert [fault["slug"] for fault in listing["faults"]] == MISSING[given] and code == listing["faults"][0]["code"]
    assert listing["stages"], "the graph is made all the same"


@pytest.mark.slow
@pytest.mark.parametrize("iterations", [1, 10])
def test_a_check_takes_two_seconds_and_a_tenth_of_one_an_iteration(planted: Path, iterations: int) -> None:
    """Of a processor, which is what it takes on a machine that is at nothing else."""
    program = [sys.executable, "-c", "from quiver.console import main; main()", "check", "RestIteration"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([*program, "--iteration", str(iterations)], capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"check of {iterations} iterations: {seconds:.2f} s")
    assert seconds <= 2.0 + 0.1 * iterations


def test_a_fault_of_every_iteration_and_stage_is_said_once_and_what_comes_of_it_not(
    planted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A kind of `Keep` that reads a column which is not there: all behind it is looked at, and is no fault itself."""
    faults = Faults()
    plan = Plan(str(planted / "data"), faults)
    from datakit.filter import Threshold, Where

    rows = rows_at(plan, "rows.jsonl", "completions")
    for number in (1, 2):
        kept = plan.table(f"iter={number}/kept", Threshold(minimum=0.5), rows)
        again = plan.table(f"iter={number}/again", Threshold(minimum=0.6), kept)
        assert isinstance(kept, RefusedTable) and kept.schema == rows.schema
        good = plan.table(f"iter={number}/good", Where(predicate="length(response) > 0"), again)
    assert [fault.missing for fault in faults.noted] == [("reward",)]
    assert spoilt([good]) >= {id(kept), id(again), id(good)} and id(rows) not in spoilt([good])
    with pytest.raises(ConfigError):
        Plan(str(planted / "data")).table("kept", Threshold(minimum=0.5), rows)


def test_what_is_sound_is_listed_with_rows_tokens_and_bytes(
    planted: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pipelines.run("Import", files=["rows.jsonl"], format="completions")
    place = next(iter(Path("quiver-data/import").iterdir()))
    code, listing = checked(capsys, f"Sft --model model --data {place} --eval-share 0.25")
    assert code == 0 and not listing["faults"]
    states = {one["stage"]: (one["state"], one["rows"]) for one in listing["stages"]}
    assert ("first time", 3) in states.values() and listing["trainings"] == 1 and listing["trained_tokens"] > 0
    there = {one: one.stat().st_mtime_ns for one in planted.rglob("*")}
    monkeypatch.setattr("pipelines.cli.invocation.program", lambda name: f"bin/{name}")
    assert checking.main(shlex.split(f"Sft --model model --data {place}")) == 0
    text = capsys.readouterr().out
    assert (
        "below quiver-data" in room(listing)
        and max(map(len, text.splitlines())) <= 80
        and "next: bin/quiver Sft --model model" in text
    )
    assert {one: one.stat().st_mtime_ns for one in planted.rglob("*")} == there


def test_stages_are_done_changed_or_to_do(planted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipelines.run(
        "Filter", data="rows.jsonl", format="completions", op="where", params={"predicate": "length(response) > 0"}
    )
    words = "Filter --data rows.jsonl --format completions --op where --params"
    _, same = checked(capsys, f"""{words} '{{"predicate": "length(response) > 0"}}'""")
    assert [one["state"] for one in same["stages"]] == ["done"]
    _, other = checked(capsys, f"""{words} '{{"predicate": "length(response) > 1"}}'""")
    assert [one["state"] for one in other["stages"]] == ["done", "changed"]
    assert "predicate" in other["stages"][1]["why"]


def test_answers_count_with_all_their_tokens(planted: Path) -> None:
    """20 prompts, 3 answers of 8 tokens to each."""
    from datakit.clients import Sampling
    from datakit.generate import Complete
    from pipelines.graph.backend import model_at
    from pipelines.stages.ask import ask

    plan = Plan(str(planted / "data"))
    rows, model = rows_at(plan, "prompts.jsonl", "prompts"), model_at(plan, "model", "generator")
    answers = ask(plan, "answers", Complete(sampling=Sampling(samples_per_prompt=3, max_new_tokens=8)), rows, model)
    tokens = TokenEstimate([answers])
    assert tokens.drawn(answers) == pytest.approx(20 * 3 * 8, abs=3 * 8) and (tokens.of(answers) or 0) > tokens.drawn(
        answers
    )
    assert tokens.drawn(rows) == 0 and tokens.of(rows) is None


def test_a_silent_server_is_given_a_second_and_one_that_answers_is_not_asked_to_work(
    planted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as listening:
        listening.bind(("localhost", 0))
        listening.listen()
        silent = listening.getsockname()[1]
        since = time.monotonic()
        code, listing = checked(capsys, f"Generate --model http://localhost:{silent}/v1#m --prompts prompts.jsonl")
    assert code == 13 and [fault["slug"] for fault in listing["faults"]] == ["no-answer"]
    assert time.monotonic() - since < 4.0
    with ModelServer() as server:
        code, listing = checked(capsys, f"Generate --model http://localhost:{server.port}/v1#m --prompts prompts.jsonl")
        assert code == 0, listing["faults"]
        assert list(server.paths) == ["/v1/models"]
    assert not Path("quiver-data").exists()


def test_a_dry_run_lists_and_stops(planted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(["--module", "pipelines", "Sft", "--model", "model", "--data", "rows.jsonl", "--dry-run"])
    text = capsys.readouterr().out
    assert ended.value.code == 0 and "stages would run" in text and "first time" in text
    assert not Path("quiver-data").exists()
    with pytest.raises(ConfigError, match="command line"):
        pipelines.run("Sft", model="model", data="rows.jsonl", dry_run=True)


def test_it_is_a_process_with_the_exit_code_of_the_first_fault(planted: Path) -> None:
    program = [sys.executable, "-c", "from quiver.console import main; main()", "check"]
    words = ["Label", "--data", "rows.jsonl", "--op", "lenght", "--root", "elsewhere"]
    done = subprocess.run([*program, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "error[2/unknown-op]" in done.stdout and not done.stderr
    unfolded = done.stdout.replace(" \\\n    ", " ")
    assert "quiver Label --data rows.jsonl --op length" in unfolded and not Path("elsewhere").exists()
