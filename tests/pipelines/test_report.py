"""Figures as data, and the same as text."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pytest

import pipelines.report
from datakit.apply import apply
from datakit.label import Verify
from pipelines.graph.nodes import Table, TrainedCheckpoint
from pipelines.graph.plan import Plan
from pipelines.graph.results import Results
from pipelines.report.figures import Change, Figure, FigureTable, perplexity
from pipelines.report.held_out import before_and_after
from pipelines.report.iterations import cut_answers, iteration_table, unmeasured
from pipelines.report.pairs import preference_table
from pipelines.report.registry import rendered, renderers
from pipelines.report.renderer import Renderer, Report
from pipelines.report.table import changes, text
from pipelines.stages.iteration import EvalSetup, Evaluation, IterationResult, joined_rows
from pipelines.stages.preference_training import MEASURED
from schemas import PROMPTS, REPORTS, SAMPLES, Dataset
from tests.pipelines.toy import Above, Count, Draw
from trainers.config import training_of

TABLE = FigureTable(
    "two iterations",
    (Figure("iteration"), Figure("kept", ","), Figure("reward", "+.2f", " -> "), Figure("judge")),
    ((1, (1200, 30), (-0.5, 1.25), "rm"), (2, (7,), (None, 2.0), "rm")),
)


def test_a_table_as_text() -> None:
    assert text(TABLE).splitlines() == [
        "two iterations",
        "iteration       kept          reward  judge",
        "---------  ---------  --------------  -----",
        "        1  1,200, 30  -0.50 -> +1.25     rm",
        "        2          7      - -> +2.00     rm",
    ]


ANSWERS = {"known": ["5", None], "unknown": [None, None]}


@pytest.mark.parametrize(
    ("answers", "flag", "gold"),
    [
        ("known", "--own-verifier", """nothing verifies the answers; --own-verifier '{"kind":"number"}' does"""),
        ("known", "", "nothing verifies the answers"),
        ("unknown", "--own-verifier", "the prompts have no known answers (key answer)"),
    ],
)
def test_figures_that_nothing_measures_name_the_flag_that_would(
    answers: str, flag: str, gold: str, tmp_path: Path
) -> None:
    rows = PROMPTS.example(2).to_pylist()
    given = [{**row, "answer": answer} for row, answer in zip(rows, ANSWERS[answers], strict=True)]
    Dataset.from_arrow(pa.Table.from_pylist(given, schema=PROMPTS.arrow), PROMPTS, str(tmp_path / "rows"))
    held_out = Plan(str(tmp_path)).existing(str(tmp_path / "rows"), "dataset")
    known: dict[str, Any] = {"name": "x", "held_out": held_out, "tokenizer": held_out, "max_new_tokens": 1}
    nothing = unmeasured(EvalSetup(**known, verifier=None, reward_model=None), flag, "--own-reward")
    assert len(nothing) == 2 and nothing[0].startswith(f'gold is "-": {gold}') and "--own-reward MODEL" in nothing[1]
    assert nothing[0].endswith("(more: quiver ops label.verify)") is (answers == "known" and bool(flag))
    both = EvalSetup(**known, verifier=Verify(kind="number"), reward_model=held_out)
    assert unmeasured(both, flag, "--own-reward") == []


def test_answers_that_were_cut_are_a_line_with_their_shares(tmp_path: Path) -> None:
    plan, nothing = Plan(str(tmp_path)), cast(Any, None)

    def step(number: int, *reasons: str) -> IterationResult:
        rows = SAMPLES.example(len(reasons))
        place = rows.schema.get_field_index("finish_reason")
        rows, url = rows.set_column(place, "finish_reason", pa.array(reasons, pa.string())), str(tmp_path / str(number))
        Dataset.from_arrow(rows, SAMPLES, url)
        samples = plan.existing(url, "dataset")
        return IterationResult(number, samples, None, (), nothing, nothing)

    ended, cut, more = step(1, "stop", "stop"), step(2, "length", *["stop"] * 31), step(3, "length", "stop")
    assert cut_answers([ended], 64, "--own-max-new-tokens") == [], "nothing is noted where all answers ended"
    [line] = cut_answers([ended, cut, more], 64, "--own-max-new-tokens")
    shares = "3.1% in iteration 2, 50.0% in iteration 3"
    assert line == f"answers cut at 64 tokens: {shares}; a greater --own-max-new-tokens lets them end"
    assert cut_answers([cut], 8, "") == ["answers cut at 8 tokens: 3.1% in iteration 2"]


def test_a_perplexity_beyond_floats_is_infinite_and_a_large_one_is_short() -> None:
    """exp(700) by hand: 700 / ln 10 = 304.006, so 1.01e+304; floats end at exp(709.78)."""
    assert perplexity(0.0) == 1.0 and perplexity(math.log(8)) == pytest.approx(8)
    row = (perplexity(math.log(1234.5)), perplexity(700.0), perplexity(63227.0))
    table = FigureTable("t", (Figure("a", ",.2f"), Figure("b", ",.2f"), Figure("c", ",.2f")), (row,))
    assert text(table).splitlines()[-1].split() == ["1,234.50", "1.01e+304", "inf"]


def test_every_renderer_of_the_list_shows_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a page would be: one file with a `Renderer`, and one line in the list."""

    def write(report: Report) -> str:
        page = Path(report.folder, "report.html")
        page.write_text("".join(f"<h1>{table.title}</h1>" for table in report.tables))
        return f"a page of it: {page}"

    report = Report(title="Some", folder=str(tmp_path), tables=(TABLE,))
    alone = rendered(report)
    assert text(TABLE) in alone and "table" in [renderer.name for renderer in renderers()]
    monkeypatch.setattr(pipelines.report, "PAGE", Renderer(name="page", render=write), raising=False)
    assert rendered(report) == f"{alone}\na page of it: {tmp_path}/report.html"
    assert (tmp_path / "report.html").read_text() == "<h1>two iterations</h1>"
    monkeypatch.undo()
    assert rendered(Report(title="Some", folder=str(tmp_path), tables=())) == "", "nothing was measured or made"


def test_a_table_as_records() -> None:
    first, second = TABLE.records()
    assert first == {"iteration": 1, "kept": (1200, 30), "reward": (-0.5, 1.25), "judge": "rm"}
    assert second["reward"] == (None, 2.0)


def test_figures_of_a_removed_dataset_are_left_out_and_the_table_says_so(tmp_path: Path) -> None:
    plan = Plan(str(tmp_path))
    numbers = plan.table("toy/iter=1/samples", Count(rows=8))
    rewards = plan.table("toy/iter=1/rewards", Draw(), numbers)
    kept = [plan.table(f"toy/iter=1/step={n}/kept", Above(minimum=n / 4), rewards) for n in (1, 2)]
    figures = []
    for number, (stage, correct) in enumerate((("first", 0.25), ("after", 0.5))):
        table = pa.table({"stage": [stage], "metric": ["correct.mean"], "value": [correct]})
        Dataset.from_arrow(table, REPORTS, str(tmp_path / f"evaluation-{number}"))
        figures.append(plan.existing(str(tmp_path / f"evaluation-{number}"), "dataset"))
    step = IterationResult(1, numbers, rewards, tuple(kept), numbers, Evaluation(numbers, figures[1]))
    for node, rows in ((numbers, {"n": [1, 2, 3, 4]}), (kept[1], {"n": [3], "reward": [0.75]})):
        given = {**rows, "prompt_id": [f"p{n}" for n in rows["n"]]}
        Dataset.from_arrow(pa.table(given), node.schema, node.url)
    table = iteration_table("one iteration", Evaluation(numbers, figures[0]), [step])
    [row] = table.records()
    assert [row[name] for name in ("samples", "kept", "share", "reward", "kept reward")] == (
        [4, (None, 1), (None, 0.25), None, (None, 0.75)]
    )
    assert (row["gold before"], row["gold after"]) == (0.25, 0.5)
    assert table.notes == tuple(f"{node.url} is gone: its figures are left out" for node in (rewards, kept[0]))
    assert text(table).splitlines()[-2:] == list(table.notes)


def test_only_samples_of_the_iteration_count_as_its_share(tmp_path: Path) -> None:
    """8 samples, 40 original rows and 12 of the iteration before, filtered together: counted and averaged by hand."""
    plan = Plan(str(tmp_path))
    numbers = {name: plan.table(f"toy/{name}", Count(rows=n)) for name, n in (("now", 8), ("old", 40), ("past", 12))}
    rewards = {name: plan.table(f"toy/{name}.rewards", Draw(), rows, seed=len(name)) for name, rows in numbers.items()}
    parts = {"grown": rewards["now"], "iter=1": rewards["past"], "original": rewards["old"]}
    mixed = joined_rows(plan, "toy/iter=2/mixed", parts, 0)
    kept = tuple(plan.table(f"toy/iter=2/step={n}/kept", Above(minimum=n / 4), mixed) for n in (1, 2, 4))
    for node in plan.nodes.values():
        assert isinstance(node, Table)
        apply(node.op, [Dataset.open(one.url) for one in node.inputs], node.url, seed=node.seed, processes=1)
    report = pa.table({"stage": ["x"], "metric": ["correct.mean"], "value": [0.5]})
    Dataset.from_arrow(report, REPORTS, str(tmp_path / "evaluation"))
    figures = plan.existing(str(tmp_path / "evaluation"), "dataset")
    step = IterationResult(2, numbers["now"], rewards["now"], kept, numbers["now"], Evaluation(numbers["now"], figures))
    [row] = iteration_table("second", Evaluation(numbers["now"], figures), [step]).records()
    drawn = {name: Dataset.open(node.url).read()["reward"].to_pylist() for name, node in rewards.items()}
    above = [[value for value in drawn["now"] if value > n / 4] for n in (1, 2)]
    assert row["kept"] == tuple(sum(v > n / 4 for some in drawn.values() for v in some) for n in (1, 2, 4))
    assert row["kept"][0] > 8, "shares of them all would be above 1"
    assert row["share"] == (*(len(some) / 8 for some in above), 0.0)
    assert row["kept reward"] == (*(pytest.approx(sum(some) / len(some)) for some in above), None)


GAINED = "log-probability gained over the reference"
MEANINGS = [
    ("dpo", {"beta": 0.5}, f"0.5 times what an answer's {GAINED}"),
    ("kto", {"beta": 0.25}, f"0.25 times what an answer's {GAINED}"),
    (
        "dpo",
        {"average_log_probs": True, "beta": 0.5},
        "0.5 times what an answer's mean log-probability per token gained",
    ),
    ("simpo", {"beta": 2.0}, "2 times an answer's mean log-probability per token"),
    ("orpo", {"beta": 0.1}, "0.1 times an answer's mean log-probability per token"),
]


@pytest.mark.parametrize(("algorithm", "settings", "meaning"), MEANINGS)
@pytest.mark.parametrize("judged", ["pairs", "answers"])
def test_rewards_are_explained_as_their_algorithm_makes_them(
    judged: str, algorithm: str, settings: dict[str, Any], meaning: str, tmp_path: Path
) -> None:
    names = (
        ["wanted.count", "wanted.mean"] if judged == "answers" else ["before.count", *(f"{n}.mean" for n in MEASURED)]
    )
    report = pa.table({"stage": ["x"] * len(names), "metric": names, "value": [0.5] * len(names)})
    Dataset.from_arrow(report, REPORTS, str(tmp_path / "evaluation"))
    rows = Plan(str(tmp_path)).existing(str(tmp_path / "evaluation"), "dataset")
    training = training_of(
        algorithm,
        {"settings": settings, "max_steps": 1, "global_batch_size": 2, "optim": {"lr": 1e-3}},
        seed=0,
        where="x",
    )
    policy = TrainedCheckpoint(label="policy", root=str(tmp_path), training=training, data=rows, tokenizer=rows)
    results = Results(targets=(policy,), datasets={}, checkpoints={"policy": policy}, figures={"evaluation": rows})
    meanings = {column.name: column.meaning for column in preference_table("x", results).columns}
    begin = "mean reward of wanted ones" if judged == "answers" else "mean reward"
    assert meanings["rewards/chosen"].startswith(f"{begin}: {meaning}")
    assert ("gained" in meanings["rewards/chosen"]) is (algorithm in ("dpo", "kto"))


def test_held_out_answers_before_and_after_are_what_a_run_changed() -> None:
    """Of two rows the first says before and the last after."""
    rows = ((0.5, 0.75, (-1.0, 0.5), (8.0, 6.0)), (0.75, 0.875, (0.5, 1.25), (6.0, 5.5)))
    assert changes(FigureTable("a run", before_and_after("this step"), rows)) == [
        Change("gold", "50.0%", "87.5%"),
        Change("held-out reward", "-1.00", "+1.25"),
        Change("answer tokens", "8.0", "5.5"),
    ]
