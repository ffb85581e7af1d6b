"""What recipes of one training stand on, planned: formats recognized, rows split, what cannot be refused."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import luigi

from datakit.apply import apply
from datakit.blend import Split
from pipelines.cli import invocation
from pipelines.cli.learning import ByAlgorithm, Learns, SettingFlag
from pipelines.commands.algorithm_kinds import LearnsAnswers, LearnsPreferences
from pipelines.commands.evaluation import Evaluate
from pipelines.commands.files import ReadsFiles
from pipelines.commands.one_shot import OneShotSetup
from pipelines.commands.usage import commands
from pipelines.graph.nodes import Table
from pipelines.graph.plan import Plan
from pipelines.recipes import DraftPlus, Sft
from schemas import PROMPTS, REPORTS, Dataset
from schemas.errors import ConfigError
from schemas.manifest import MANIFEST, Manifest
from trainers.registry import algorithms

ANSWERED = [{"prompt": f"Say {n}.", "response": f"It is {n}."} for n in range(400)]
TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
SHARE = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]
NEMO = {"conversations": [{"from": "User", "value": "Hi"}, {"from": "Assistant", "value": "Ho"}], "mask": "User"}
RECORDS = {
    "completions": {"prompt": "Hi", "completion": "Ho"},
    "alpaca": {"instruction": "Say it", "input": "Ho", "output": "Ho"},
    "dolly": {"instruction": "Say it", "context": "Ho", "response": "Ho", "category": "open_qa"},
    "messages": {"messages": TURNS, "tools": []},
    "chats": {"system": "Be good", "type": "VALUE_TO_TEXT", **NEMO},
}
NO_RECORD = {"prompt": "Hi", "chosen": "Ho", "rejected": "No"}


def write(path: Path, rows: Sequence[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def planned(place: Path, data: str, **settings: Any) -> OneShotSetup:
    return Sft(model=str(place / "model"), data=data, **settings).one_shot_setup(Plan(str(place / "out")))


def imports(setup: OneShotSetup) -> Any:
    """The operation that reads the rows that are learnt from."""
    [first] = [node for node in setup.train.ancestors() if isinstance(node, Table) and not node.inputs]
    return first.op


@pytest.mark.parametrize("name", RECORDS)
def test_a_file_is_read_in_the_format_that_leaves_least_unread(place: Path, name: str) -> None:
    assert imports(planned(place, write(place / "some.jsonl", [RECORDS[name]]), eval_share=0.0)).format == name


def test_a_file_of_columns_is_recognized_too(place: Path) -> None:
    pq.write_table(pa.table({"instruction": ["Say it"], "output": ["Ho"]}), place / "some.parquet")
    read = imports(planned(place, str(place / "some.parquet"), eval_share=0.0))
    assert (read.name, read.format) == ("io.parquet", "alpaca")


def test_conversations_of_other_names_are_messages(place: Path) -> None:
    assert (
        imports(planned(place, write(place / "some.jsonl", [{"conversations": SHARE}]), eval_share=0.0)).format
        == "messages"
    )


def test_names_that_are_mapped_choose_the_format_that_has_them(place: Path) -> None:
    data = write(place / "some.jsonl", [{"dialog": TURNS}])
    assert imports(planned(place, data, columns={"messages": "dialog"}, eval_share=0.0)).format == "messages"


def test_a_file_that_nothing_reads_is_refused(place: Path) -> None:
    with pytest.raises(ConfigError, match="no format of Sft reads the first rows") as fault:
        planned(place, write(place / "some.jsonl", [NO_RECORD]))
    assert fault.value.slug == "wrong-rows" and "completions, alpaca, messages" in fault.value.expected


def test_rows_of_another_kind_are_refused(place: Path) -> None:
    prompts = Dataset.from_arrow(PROMPTS.example(3), PROMPTS, str(place / "prompts"))
    with pytest.raises(ConfigError, match="Sft learns nothing from rows of prompts") as fault:
        planned(place, prompts.url)
    assert fault.value.found == ", ".join(PROMPTS.names)


def test_what_is_missing_is_reported_with_a_whole_command(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(invocation, "_given", ["Sft", "--lr", "1e-5"])
    with pytest.raises(ConfigError, match="Sft needs --model, --data") as fault:
        Sft().one_shot_setup(Plan(str(place / "out")))
    assert fault.value.next.endswith("luigi --module pipelines Sft --lr 1e-5 --model FOLDER --data rows.jsonl")


def test_a_share_that_leaves_nothing_is_refused(place: Path) -> None:
    data = write(place / "some.jsonl", ANSWERED)
    with pytest.raises(ConfigError, match="--eval-share 1 leaves nothing to learn from"):
        planned(place, data, eval_share=1.0)
    assert planned(place, data, eval_data=data, eval_share=1.0).judged.label == "imported/some"


def test_a_question_stands_in_one_part_wherever_it_stands_in_the_file(place: Path) -> None:
    """Each question has two answers; the second file holds the same rows in another order, and some more."""
    rows = [*ANSWERED, *({**row, "response": "Guess."} for row in ANSWERED)]
    more = [*rows, *({"prompt": f"Sing {n}.", "response": "La."} for n in range(100))]
    random.Random(3).shuffle(more)
    held_out = []
    for name, given in (("one", rows), ("other", more)):
        setup = planned(place, write(place / f"{name}.jsonl", given), eval_share=0.2)
        parts = [part_of(place / name, setup, part) for part in ("train", "held_out")]
        assert not parts[0] & parts[1] and parts[0] | parts[1] == {row["prompt"] for row in given}
        held_out.append(parts[1])
    assert held_out[0] == {question for question in held_out[1] if question.startswith("Say")}
    assert 50 < len(held_out[0]) < 110, "a fifth of 400"


@pytest.mark.parametrize("name", ["messages", "completions"])
def test_no_first_question_is_both_learnt_from_and_judged_by(place: Path, name: str) -> None:
    """A hundred questions with three conversations each, which go on differently, with and without a system turn."""
    rows: list[dict[str, Any]] = []
    for number in range(300):
        turns = [("system", f"Be {number}.")] * (number % 2) + [("user", f"Why {number // 3}?")]
        turns += [("assistant", f"Because {number}."), ("user", f"And {number % 3}?")]
        made = [{"role": role, "content": content} for role, content in turns]
        answer = {"role": "assistant", "content": f"So {number}."}
        rows.append({"messages": [*made, answer]} if name == "messages" else {"messages": made, "response": "So."})
    setup = planned(place, write(place / "some.jsonl", rows), eval_share=0.2)
    questions = []
    for part in ("train", "held_out"):
        node = getattr(setup, part)
        read = apply(imports(setup), [], str(place / f"{part}-read"))
        messages = apply(node.op, read, str(place / part), seed=node.seed).read()["messages"].to_pylist()
        questions.append({next(t["content"] for t in turns if t["role"] == "user") for turns in messages})
    assert not questions[0] & questions[1] and len(questions[0] | questions[1]) == 100
    assert 4 <= len(questions[1]) <= 36, "a fifth of 100, within 4 sigma"


@pytest.mark.slow
def test_a_part_of_a_split_is_held_apart_like_any_rows(place: Path) -> None:
    """`Blend` halves the rows, `Sft` holds a twentieth of each out: 10 of 200, within 4.5 sigma of the binomial."""
    data, parts = write(place / "some.jsonl", ANSWERED), '"parts": ["a", "b"], "shares": [0.5, 0.5]}'
    for part in "ab":
        blend = ("Blend", "--op", "split", "--data", data, "--format", "completions", "--name", part)
        done = luigi(place, *blend, "--params", f'{{"part": "{part}", {parts}', module="pipelines")
        assert done.returncode == 0, done.stderr
        [half] = (place / "quiver-data").glob(f"{part}-*")
        setup = planned(place, str(half))
        made = {}
        for name in ("train", "held_out"):
            node = getattr(setup, name)
            made[name] = apply(node.op, Dataset.open(str(half)), str(place / part / name), seed=node.seed).num_rows
        rows = sum(made.values())
        assert rows == Dataset.open(str(half)).num_rows and abs(rows - 200) < 45
        assert abs(made["held_out"] - rows / 20) < 4.5 * (rows / 20 * 0.95) ** 0.5 and made["held_out"]


def part_of(folder: Path, setup: OneShotSetup, part: str) -> set[str]:
    """The questions of a part, made as the plan says."""
    node = getattr(setup, part)
    assert isinstance(node, Table) and isinstance(node.op, Split)
    rows = apply(imports(setup), [], str(folder / f"{part}-rows"))
    split = apply(node.op, rows, str(folder / part), seed=node.seed)
    return {turns[-1]["content"] for turns in split.read()["messages"].to_pylist()}


def test_rows_are_as_long_as_the_model_reads(place: Path) -> None:
    data = write(place / "some.jsonl", ANSWERED)
    assert planned(place, data).reading.max_length == 64
    with pytest.raises(ConfigError, match="more than the 64 tokens") as fault:
        planned(place, data, max_length=65)
    assert fault.value.next == "--max-length 64"


def test_sft_refuses_an_algorithm_of_pairs(place: Path) -> None:
    data = write(place / "some.jsonl", ANSWERED)
    with pytest.raises(ConfigError, match="dpo does not learn from answers one by one"):
        Sft(model=str(place / "model"), data=data, algorithm="dpo").results(Plan(str(place / "out")))


def test_a_finished_run_needs_its_inputs_no_more(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file and the model go away while training runs: what was trained is there, and said to be."""
    data = write(place / "some.jsonl", ANSWERED)
    recipe = Sft(model=str(place / "model"), data=data, eval_share=0.0)
    policy = recipe.graph.checkpoints["policy"]
    Path(policy.url).mkdir(parents=True)
    (Path(policy.url) / MANIFEST).write_bytes(Manifest(kind="checkpoint", task_key=policy.task_key).to_bytes())
    Path(data).unlink()
    shutil.rmtree(place / "model")
    recipe.go_on()
    assert "go on with" in (printed := capsys.readouterr().out) and "Generate --model" in printed


def test_figures_need_the_prompts_no_more(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = Evaluate(model=str(place / "model"), prompts="prompts.jsonl", max_new_tokens=8)
    Dataset.from_arrow(REPORTS.example(2), REPORTS, command.targets[0].url)
    (place / "prompts.jsonl").unlink()
    command.after()
    assert "correct is not measured: the prompts have no known answers" in capsys.readouterr().out


def test_flags_and_settings_are_one_learning(place: Path) -> None:
    data = write(place / "some.jsonl", ANSWERED)
    recipe = Sft(model=str(place / "model"), data=data, lr=3e-4, epochs=2, batch_size=4, eval_steps=5, set=("seed_=1",))
    with pytest.raises(ConfigError, match="unknown key seed_"):
        recipe.training_for("here")
    training = Sft(**{**recipe.param_kwargs, "set": ("lora.rank=4", "lora.alpha=8")}).training_for("here")
    learning = training.learning
    assert (learning.optim.lr, learning.optim.schedule, learning.epochs) == (3e-4, "constant", 2)
    assert (learning.global_batch_size, training.execution.validate_every) == (4, 5)
    assert learning.lora is not None and learning.lora.rank == 4


def test_commands_share_the_flags_of_files_and_of_training() -> None:
    """What names a format reads files; what has a learning rate has every flag of `Learns`, images apart."""
    kinds = commands().values()
    flags = {kind: {name for name, _ in kind.get_params()} for kind in kinds}
    assert {kind for kind in kinds if "ignore" in flags[kind]} == {
        kind for kind in kinds if issubclass(kind, ReadsFiles)
    }
    trains = {kind for kind in kinds if "lr" in flags[kind]} - {DraftPlus}
    common = {name for name, one in vars(Learns).items() if isinstance(one, SettingFlag)}
    assert len(common) == 4 and Sft in trains
    assert all(issubclass(kind, Learns) and flags[kind] >= common for kind in trains)


def test_every_recipe_by_an_algorithm_refuses_those_that_it_has_no_rows_for(place: Path) -> None:
    kinds = [kind for kind in commands().values() if issubclass(kind, ByAlgorithm)]
    unfit = [(kind, name) for kind in kinds for name, one in algorithms().items() if not kind.fits(one)]
    assert {kind for kind, _ in unfit} == {*kinds} and len(kinds) > 5
    for kind, name in unfit:
        with pytest.raises(ConfigError) as fault:
            kind(algorithm=name).training_for("here")
        assert fault.value.what == f"{name} {kind.unfit}" and kind.unfit != ByAlgorithm.unfit


@pytest.mark.parametrize(
    ("algorithm", "kinds"), [("sft", {LearnsAnswers}), ("kto", {LearnsPreferences}), ("dpo", {LearnsPreferences})]
)
def test_what_learns_from_answers_is_not_what_learns_preferences(algorithm: str, kinds: set[type]) -> None:
    assert {kind for kind in (LearnsAnswers, LearnsPreferences) if kind.fits(algorithms()[algorithm])} == kinds
