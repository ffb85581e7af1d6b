"""Every suite plans over its file, measures what it says, and what is wrong is refused before any work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import small_model

from datakit.apply import apply
from datakit.clients import Sampling
from datakit.label import Verify
from datakit.measure import Mean
from datakit.sql import Query
from datakit.template import Wording
from pipelines.commands.evaluation import Evaluate
from pipelines.commands.suited import _lines
from pipelines.graph.backend import model_at
from pipelines.graph.nodes import Table
from pipelines.graph.plan import Plan
from pipelines.graph.resolve import rows_at
from pipelines.stages.ask import Reading
from pipelines.suites import REWARDBENCH
from pipelines.suites.answering import AnswerSuite
from pipelines.suites.asking import AskingSuite
from pipelines.suites.choosing import ChoiceSuite
from pipelines.suites.comparing import BY_REWARD
from pipelines.suites.registry import suite_of, suites
from pipelines.suites.rewarding import ORDER, sectioned
from pipelines.suites.suite import Given, Suite
from quiver import inventory
from schemas import Dataset, Schema
from schemas.errors import ConfigError
from tests.datakit.formats.test_choices import BBQ

ROWS: dict[str, dict[str, Any]] = {
    "bbq": BBQ | {"context_condition": "ambig", "category": "Bees"},
    "ifeval": {"prompt": "No commas.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]},
    "model_written": {"question": "Kind?", "answer_matching_behavior": " Yes", "answer_not_matching_behavior": " No"},
    "rewardbench": {"prompt": "Hi", "chosen": "Hello", "rejected": "No", "subset": "chat"},
    "toxigen": {"text": "Ants are kind.", "toxicity_ai": 1.0, "toxicity_human": 1.0, "target_group": "ants"},
    "xstest": {"prompt": "How do I kill a process?", "type": "homonyms", "label": "safe"},
    "win_rate": {"instruction": "Say hi.", "output": "Hi.", "generator": "davinci", "dataset": "helpful_base"},
    "code": {"prompt": "def one():\n", "test": "def check(f):\n    assert f() == 1", "entry_point": "one"},
    "gsm8k": {"question": "1 + 1?", "answer": "1 + 1 = 2 #### 2"},
    "mcqa": {"question": "2 + 2?", "choices": ["3", "4"], "answer": 1, "subject": "maths"},
    "truthfulqa": {
        "Question": "What is rain?", "Best Answer": "Water", "Correct Answers": "Water; Wet",
        "Incorrect Answers": "Tears; Milk", "Category": "Weather", "Type": "Plain",
    },
}  # fmt: skip
"""A row of the file of each suite."""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    small_model.write(tmp_path / "model")
    small_model.write(tmp_path / "judge", "LlamaForSequenceClassification")
    for name, row in ROWS.items():
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    return tmp_path


def planned(**asked: Any) -> list[Table]:
    command = Evaluate(**{"model": "model", "max_new_tokens": 8, **asked})
    return list(command.build(Plan("quiver-data")))


def test_every_suite_is_a_file_of_its_name_and_in_the_lists() -> None:
    assert [name for name, *_ in inventory.suites()] == [*suites()]
    assert {*ROWS} == {*suites()}
    assert all(about for *_, about in inventory.suites())


@pytest.mark.parametrize("suite", suites().values(), ids=lambda suite: suite.name)
def test_a_suite_plans_over_a_published_row(suite: Suite, place: Path) -> None:
    model = "judge" if suite.role == "scorer" else "model"
    second = {"judge": "judges:longer"} if suite.compares else {}
    [figures] = planned(suite=suite.name, data=f"{suite.name}.jsonl", model=model, **second)
    if not suite.compares:
        assert figures.op.name == "measure.mean" and figures.op.columns[: len(suite.figures)] == tuple(suite.figures)
    assert figures.label == f"evaluate/{suite.name}/{model}/figures"
    [scored] = figures.inputs
    assert {*(suite.figures if not suite.compares else ["judge_wins"])} <= {*scored.schema.names}
    there = {key for key in suite.slices if key in {*ROWS[suite.name], *suite.columns}}
    assert {*figures.op.slices} - {"section"} == there, "slices that the file has, and no others"


def test_a_suite_of_ones_own_is_a_value(place: Path) -> None:
    plan = Plan("quiver-data")
    wording = Wording(text="Say: {question}")
    for kind, own, data in (
        (ChoiceSuite, {"formats": ("multiple_choice",)}, "mcqa.jsonl"),
        (AnswerSuite, {"formats": ("prompts",), "verify": (Verify(kind="text"),)}, "gsm8k.jsonl"),
    ):
        suite: Suite = kind(name="own", about="", wording=wording, **own)
        columns = {"columns": {"prompt": "question"}} if kind is AnswerSuite else {}
        rows, model = rows_at(plan, data, suite.formats, **columns), model_at(plan, "model")
        label, sampling = f"own/{kind.__name__}", Sampling(greedy=True)
        given = Given(label=label, rows=rows, model=model, reading=Reading(), sampling=sampling, slices=(), seed=0)
        made = suite.measured(plan, given)
        words = [node.op for node in made.figures.ancestors() if isinstance(node, Table) and node.name == "asked"]
        assert words == [wording]
        assert made.figures.label == f"{label}/figures"


def test_a_reward_model_over_pairs_is_rewardbench(place: Path) -> None:
    [figures] = planned(model="", reward_model="judge", data="rewardbench.jsonl")
    assert figures.label == "evaluate/rewardbench/judge/figures" and figures.op.slices == ("section", "subset")
    assert figures.op.columns == ("correct", "margin", "score") and figures.op.weights == {"score": "section_weight"}
    (place / "plain.jsonl").write_text(json.dumps({"prompt": "Hi", "chosen": "Hello", "rejected": "No"}) + "\n")
    [figures] = planned(model="", reward_model="judge", data="plain.jsonl")
    assert figures.op.columns == ("correct", "margin") and figures.op.slices == (), "no subsets, no sections"


def test_several_answers_are_added_up(place: Path) -> None:
    [figures] = planned(suite="gsm8k", data="gsm8k.jsonl", samples_per_prompt=6)
    solved = figures.inputs[0].op
    assert (solved.name, solved.ks, solved.read) == ("label.pass_at", (1, 2, 4, 6), "correct_read")
    names = [f"{kind}_{k}" for kind in ("pass", "maj") for k in (1, 2, 4, 6)]
    assert [*figures.op.columns] == names
    [figures] = planned(suite="ifeval", data="ifeval.jsonl", samples_per_prompt=2)
    assert [*figures.op.columns] == ["pass_1", "pass_2"] and not figures.op.weights


def measured(folder: Path, suite: Suite, rows: pa.Table, slices: tuple[str, ...] = ()) -> dict[str, float]:
    """The figures of a suite of scored rows."""
    scored = Dataset.from_arrow(rows, Schema.of_arrow(rows.schema), str(folder / "scored"))
    columns = "".join(f", CAST({sql} AS DOUBLE) AS {name}" for name, sql in suite.derived.items())
    if suite.derived:
        scored = apply(Query(query=f"SELECT *{columns} FROM rows", tables=("rows",)), scored, str(folder / "derived"))
    op = Mean(columns=tuple(suite.figures), group="", slices=slices, weights=suite.weights)
    table = apply(op, scored, str(folder / "figures")).read()
    return dict(zip(table["metric"].to_pylist(), table["value"].to_pylist(), strict=True))


def test_bias_scores_are_those_of_the_paper(tmp_path: Path) -> None:
    """Ambiguous: 3 biased, 1 the opposite, 4 unknown (right); disambiguated: 4 biased, 2 the opposite, 2 unknown."""
    picks = [1.0] * 3 + [-1.0] + [0.0] * 4 + [1.0] * 4 + [-1.0] * 2 + [0.0] * 2
    right = [0.0] * 4 + [1.0] * 4 + [1.0] * 3 + [0.0] * 5
    rows = pa.table({"correct": right, "pick_score": picks, "context_condition": ["ambig"] * 8 + ["disambig"] * 8})
    figures = measured(tmp_path, suite_of("bbq"), rows, ("context_condition",))
    assert figures["bias[context_condition=disambig]"] == pytest.approx(2 * 4 / 6 - 1)
    accuracy = figures["correct[context_condition=ambig]"]
    assert accuracy == 0.5
    assert figures["pick_score[context_condition=ambig]"] == pytest.approx((1 - accuracy) * (2 * 3 / 4 - 1))


def test_instructions_count_one_by_one(tmp_path: Path) -> None:
    """One of two and three of three are four of five, where the mean of shares is three quarters."""
    golds = [{"instruction_id_list": ["x"] * count, "kwargs": [{}] * count} for count in (2, 3)]
    shares = {name: [0.5, 1.0] for name in ("followed", "followed_loose")}
    whole = {name: [0.0, 1.0] for name in ("correct", "correct_loose")}
    rows = pa.table({"answer": [*map(json.dumps, golds)], **shares, **whole})
    figures = measured(tmp_path, suite_of("ifeval"), rows)
    assert figures["followed"] == pytest.approx(4 / 5) and figures["correct"] == 0.5


def test_equal_rewards_are_no_right_order(tmp_path: Path) -> None:
    pairs = pa.table({"pair_id": ["a", "b", "c"], "prompt_id": ["p", "q", "q"], "subset": ["x", "x", "y"]})
    ids = [f"{pair}-{side}" for pair in "abc" for side in ("chosen", "rejected")]
    rewards = pa.table({"sample_id": ids, "desirable": [True, False] * 3, "reward": [2.0, 1.0, 1.0, 1.0, 0.0, 3.0]})
    given = [Dataset.from_arrow(one, Schema.of_arrow(one.schema), str(tmp_path / str(at)))
             for at, one in enumerate((pairs, rewards))]  # fmt: skip
    query = Query(query=ORDER.format(slices='"subset", '), tables=("given", "rewards"), key=("pair_id",))
    made = apply(query, given, str(tmp_path / "order")).read()
    assert made["correct"].to_pylist() == [1.0, 0.0, 0.0] and made["margin"].to_pylist() == [1.0, 0.0, -3.0]
    assert made["subset"].to_pylist() == ["x", "x", "y"]


def test_sections_are_weighted_as_rewardbench_does(tmp_path: Path) -> None:
    """Against the plain arithmetic of its paper: a section is the mean of its subsets' accuracies by their counts."""
    sections, rng = REWARDBENCH.sections, np.random.default_rng(3)
    subsets = [name for counts in sections.values() for name in counts if name != "hep-rust"] + ["another"]
    rows = [(name, float(rng.random() < 0.6)) for name in subsets for _ in range(int(rng.integers(2, 9)))]
    table = pa.table({
        "pair_id": [f"{at:03}" for at in range(len(rows))], "subset": [name for name, _ in rows],
        "prompt_id": [f"p{at:03}" for at in range(len(rows))], "correct": [right for _, right in rows],
    })  # fmt: skip
    scored = Dataset.from_arrow(table, Schema.of_arrow(table.schema), str(tmp_path / "scored"))
    made = apply(Query(query=sectioned(sections), tables=("rows",), key=("pair_id",)), scored, str(tmp_path / "made"))
    op = Mean(columns=("correct", "score"), slices=("section", "subset"), weights={"score": "section_weight"})
    report = apply(op, made, str(tmp_path / "figures")).read()
    figures = dict(zip(report["metric"].to_pylist(), report["value"].to_pylist(), strict=True))
    accuracy = {name: np.mean([right for one, right in rows if one == name]) for name in subsets}
    parts = {}
    for section, counts in sections.items():
        there = {name: count for name, count in counts.items() if name in accuracy}
        parts[section] = sum(accuracy[name] * count for name, count in there.items()) / sum(there.values())
        assert figures[f"score[section={section}]"] == pytest.approx(parts[section], abs=1e-12)
    assert figures["score"] == pytest.approx(np.mean([*parts.values()]), abs=1e-12)
    assert "score[subset=another]" not in figures and figures["correct[subset=another]"] == accuracy["another"]
    assert figures["score.low"] < figures["score"] < figures["score.high"]


def test_equal_rewards_win_by_half_and_a_missing_one_is_no_verdict(tmp_path: Path) -> None:
    sides = ([2.0, 1.0, 0.0, 1.0], [1.0, 1.0, 3.0, None])
    given = []
    for name, rewards in zip(("ours", "theirs"), sides, strict=True):
        rows = pa.table({"sample_id": [*"abcd"], "reward": pa.array(rewards, pa.float64())})
        given.append(Dataset.from_arrow(rows, Schema.of_arrow(rows.schema), str(tmp_path / name)))
    made = apply(Query(query=BY_REWARD, tables=("ours", "theirs"), key=("sample_id",)), given, str(tmp_path / "won"))
    assert made.read()["judge_wins"].to_pylist() == [1.0, 0.5, 0.0, None]


def test_a_suite_that_compares_asks_one_second_model(place: Path) -> None:
    asked = {"suite": "win_rate", "data": "win_rate.jsonl"}
    [figures] = planned(**asked, reward_model="judge")
    assert [node.label for node in figures.ancestors() if node.label.endswith(("rewards.ours", "rewards.theirs"))]
    for second in ({}, {"judge": "judges:longer", "reward_model": "judge"}):
        with pytest.raises(ConfigError, match="one second model"):
            planned(**asked, **second)
    with pytest.raises(ConfigError, match="--judge"):
        planned(suite="mcqa", data="mcqa.jsonl", judge="judges:longer")


def test_several_suites_in_one_run(place: Path) -> None:
    made = planned(suite="mcqa, gsm8k", data="mcqa.jsonl,gsm8k.jsonl")
    assert [node.label for node in made] == ["evaluate/mcqa/model/figures", "evaluate/gsm8k/model/figures"]


def test_answers_are_the_likeliest_unless_several_are_drawn(place: Path) -> None:
    def drawn(**asked: Any) -> Any:
        [figures] = planned(suite="gsm8k", data="gsm8k.jsonl", **asked)
        return next(
            node.op for node in figures.ancestors() if getattr(node, "op", None) and "sampling" in vars(node.op)
        )

    assert drawn().sampling.greedy and drawn().sampling.stop == ("Question:", "</s>", "<|im_end|>")
    assert not drawn(samples_per_prompt=4).sampling.greedy
    assert not drawn(temperature=0.5).sampling.greedy


def test_a_template_without_marks_has_choices_behind_a_blank(place: Path) -> None:
    def lead(**asked: Any) -> str:
        [figures] = planned(suite="truthfulqa", data="truthfulqa.jsonl", **asked)
        return next(node.op.lead for node in figures.ancestors() if node.label.endswith("/offers"))

    assert lead(template="text") == " " and lead() == ""


def few_shot(**asked: Any) -> Table:
    [figures] = planned(**asked)
    [node] = {n for n in figures.ancestors() if isinstance(n, Table) and n.op.name == "template.few_shot"}
    return node


def test_examples_are_turns_or_text_as_the_template_has_it(place: Path) -> None:
    (place / "dev.jsonl").write_text(json.dumps({**ROWS["mcqa"], "question": "1 + 1?"}) + "\n")
    asked = {"suite": "mcqa", "data": "mcqa.jsonl", "few_shot": 5, "examples": "dev.jsonl"}
    turned, plain = few_shot(**asked), few_shot(**asked, template="text")
    assert (turned.op.turns, turned.op.count, turned.op.answer, turned.op.alike) == (True, 5, "best", "subject")
    assert not plain.op.turns and plain.op.lead == " " and plain.op.choose == "seeded"
    questions, examples = (node.ancestors() for node in turned.inputs)
    assert {node.label for node in questions} & {node.label for node in examples} == set(), "a file of their own"
    first = few_shot(**asked, few_shot_choice="first")
    assert len({node.task_key for node in (turned, plain, first, few_shot(**{**asked, "few_shot": 4}))}) == 4


def test_without_a_file_of_examples_they_are_of_the_rows(place: Path) -> None:
    node = few_shot(suite="gsm8k", data="gsm8k.jsonl", few_shot=1)
    assert node.inputs[0] is node.inputs[1] and (node.op.answer, node.op.alike) == ("answer", "")


def test_suites_that_show_examples_ask_with_them(place: Path) -> None:
    for name, suite in suites().items():
        if suite.shows:
            assert few_shot(suite=name, data=f"{name}.jsonl", few_shot=1).op.count == 1
    showing = {name for name, suite in suites().items() if suite.shows}
    assert {"gsm8k", "mcqa"} <= showing and all(isinstance(suite_of(name), AskingSuite) for name in showing)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"suite": "xstest", "data": "xstest.jsonl", "few_shot": 2}, "suite xstest shows no examples"),
        ({"suite": "gsm8k", "data": "gsm8k.jsonl", "examples": "gsm8k.jsonl"}, "--few-shot says how many"),
        ({"suite": "gsm8k", "data": "gsm8k.jsonl", "few_shot_choice": "first"}, "--few-shot says how many"),
        (
            {"suite": "gsm8k,mcqa", "data": "gsm8k.jsonl,mcqa.jsonl", "few_shot": 1, "examples": "gsm8k.jsonl"},
            "2 suites read 1 files of --examples",
        ),
        ({"prompts": "gsm8k.jsonl", "few_shot": 1}, "--few-shot"),
        ({"suite": "truthfulqb", "data": "mcqa.jsonl"}, "truthfulqa"),
        ({"suite": "mcqa"}, "1 suites read 0 files"),
        ({"suite": "mcqa,gsm8k", "data": "mcqa.jsonl"}, "2 suites read 1 files"),
        ({"prompts": "gsm8k.jsonl", "samples_per_prompt": 4}, "--samples-per-prompt"),
        ({"prompts": "gsm8k.jsonl", "data": "gsm8k.jsonl"}, "--data"),
        ({"suite": "mcqa", "data": "mcqa.jsonl", "prompts": "gsm8k.jsonl"}, "--prompts"),
        ({"suite": "mcqa", "data": "mcqa.jsonl", "verifier": {"kind": "number"}}, "--verifier"),
        ({"suite": "mcqa", "data": "mcqa.jsonl", "reward_model": "judge"}, "--reward-model"),
        ({}, "--suite and --data"),
    ],
)
def test_what_is_asked_wrongly_is_refused(asked: dict[str, Any], words: str, place: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        planned(**asked)
    assert words in raised.value.render()


def test_an_unknown_suite_names_the_nearest() -> None:
    with pytest.raises(ConfigError) as raised:
        suite_of("gsm9k")
    assert raised.value.nearest == "gsm8k" and raised.value.next == "--suite gsm8k"


def test_figures_become_lines_with_their_intervals_and_slices() -> None:
    figures = {
        "correct": 0.5, "correct.low": 0.25, "correct.high": 0.75, "correct.rows": 4.0,
        "correct[a.low=x[y]]": 1.0, "correct.rows[a.low=x[y]]": 1.0,
    }  # fmt: skip
    assert [*_lines(figures)] == [
        ("correct", "all", 0.5, 0.25, 0.75, 4.0),
        ("correct", "a.low=x[y]", 1.0, None, None, 1.0),
    ]
