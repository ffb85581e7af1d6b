"""`Train` over rows of every kind by every algorithm, and recipes over texts of every kind: what cannot be learnt from
is answered with a command that leads there, and that can be.
"""

from __future__ import annotations

import shlex
from pathlib import Path

import pyarrow as pa
import pytest

import schemas
from datakit.label import Attributes
from pipelines import recipes
from pipelines.cli.known_commands import commands
from pipelines.cli.learning import ByAlgorithm
from pipelines.commands import stages
from pipelines.graph import other_rows
from pipelines.graph.plan import Plan
from pipelines.runtime import command
from schemas import Column, Schema
from schemas.dataset import Dataset
from schemas.errors import QuiverError
from trainers.registry import algorithm_of, algorithms

TEXTS = ("PROMPTS", "COMPLETIONS", "SAMPLES", "CHATS", "PREFERENCES", "FEEDBACK", "ATTRIBUTED")
TOKENS = ("TOKENS", "PAIRS", "PACKS", "PACKED_PAIRS")
ANSWERED = Schema("answered", 1, (*schemas.SAMPLES.columns, Column("reward", pa.float64(), "a number")))


MODELS = {"reward": "judge", "values": "judge", "attributes": "nine:of"}
"""What an operation asks, where it is no policy."""
NINE = "def of_{0}({0}):\n    return {{name: [1.0] * len({0}) for name in {1}}}\n"


def refused(data: str, algorithm: str) -> QuiverError | None:
    """Why `Train` cannot be; None where it can."""
    train = stages.Train(data=data, algorithm=algorithm, model="model")
    try:
        train.build(Plan("data"))
    except QuiverError as error:
        return error
    return None


@pytest.fixture
def rows(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Rows of every kind, in folders of its name, and a function that judges."""
    monkeypatch.syspath_prepend(str(place))
    (place / "nine.py").write_text("".join(NINE.format(one, Attributes().names) for one in ("messages", "input_ids")))
    for name in (*TEXTS, *TOKENS):
        kind = getattr(schemas, name)
        Dataset.from_arrow(kind.example(8), kind, f"rows/{name}")
    return place


def test_every_algorithm_over_rows_of_every_kind_names_a_command_that_can_be(
    rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps: dict[str, str] = {}
    for name in (*TEXTS, *TOKENS):
        for algorithm in algorithms():
            error = refused(f"rows/{name}", algorithm)
            assert error is not None or name in TOKENS
            if error is None:
                continue
            assert error.next, f"{algorithm} over {name}: {error.what}"
            if error.next.startswith("--algorithm"):
                other = error.next.split()[1]
                assert refused(f"rows/{name}", other) is None, f"{algorithm} over {name}: {error.next}"
                continue
            steps.setdefault(error.next, f"{algorithm} over {name}")
            recipe = other_rows.recipe_of(algorithm_of(algorithm))
            assert recipe in error.expected
    lead_on(rows, steps, capsys)


def lead_on(folder: Path, steps: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """Every command of `steps` can be, with models of the `folder`; what it was named for stands beside it."""
    for words, of in steps.items():
        program, _, step = words.partition(" --module pipelines ")
        assert program == "luigi", f"{of}: {words}"
        given = shlex.split(step)
        op = given[given.index("--op") + 1] if "--op" in given else ""
        model = MODELS.get(op, "model")
        model += "" if ":" not in model else "_input_ids" if any(name in given[-1] for name in TOKENS) else "_messages"
        given = [model if word == "CHECKPOINT" else word for word in given]
        given += ["--params", '{"k": 2}'] if op == "topk" else []  # the model knows nine ids
        with pytest.raises(SystemExit) as ended:
            command.run(["--module", "pipelines", *given, "--dry-run"])
        assert ended.value.code == 0, f"{of}: {words}\n{capsys.readouterr().err}"


def test_recipes_name_the_step_to_the_rows_that_they_learn_from(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps: dict[str, str] = {}
    for kind in (recipes.Sft, recipes.Preference, recipes.RewardModel, recipes.Distill):
        for name in TEXTS:
            more = {"teacher": "model"} if kind is recipes.Distill else {}
            try:
                kind(model="model", data=f"rows/{name}", **more).results(Plan("data"))
            except QuiverError as error:
                steps.setdefault(error.next, f"{kind.__name__} over {name}")
    assert steps.pop("--algorithm kto") == "Preference over FEEDBACK"
    assert {shlex.split(words)[3] for words in steps} == {"Generate", "Label", "Blend", "Preference", "Sft"}
    lead_on(rows, steps, capsys)


@pytest.mark.parametrize(
    ("algorithm", "schema", "step"),
    [
        ("dpo", schemas.PROMPTS, "Generate --model here --samples-per-prompt 4 --prompts rows"),
        ("dpo", schemas.SAMPLES, "Label --op reward --model CHECKPOINT --data rows"),
        ("dpo", ANSWERED, "Blend --op pair --data rows"),
        (
            "rm",
            schemas.SAMPLES.adding(Column("correct", pa.float64(), "1: right")),
            """Blend --op pair --params '{"rule": "right_vs_wrong", "column": "correct"}' --data rows""",
        ),
        ("dpo", schemas.FEEDBACK, "Preference --algorithm kto --model here --data rows"),
        ("simpo", schemas.CHATS, "Sft --model here --data rows"),
        ("kto", schemas.PREFERENCES, """Blend --op unpair --params '{"desirable": true}' --data rows"""),
        ("sft", schemas.PREFERENCES, """Blend --op unpair --params '{"sides": "chosen"}' --data rows"""),
        ("sft", schemas.PROMPTS, "Generate --model here --prompts rows"),
        ("kd", schemas.PACKS, "--algorithm sft"),
        ("sft", schemas.COMPLETIONS, ""),
        ("dpo", schemas.PREFERENCES, ""),
        ("dpo", schemas.PAIRS, ""),
    ],
)
def test_the_step_from_rows_to_rows(algorithm: str, schema: Schema, step: str) -> None:
    """Nothing where columns can be added to the rows that there are."""
    made = other_rows.first_step(algorithm_of(algorithm), schema, "--data rows", "here")
    assert made.removeprefix("luigi --module pipelines ") == step


def test_recipes_are_named_for_the_algorithms_that_they_take() -> None:
    for name, algorithm in algorithms().items():
        recipe = other_rows.recipe_of(algorithm)
        kinds = [commands()[one] for one in ("Preference", "RewardModel", "Distill", "Sft")]
        able = [kind.__name__ for kind in kinds if issubclass(kind, ByAlgorithm) and kind.fits(algorithm)]
        assert recipe in able if able else not recipe, f"{name}: {recipe}, {able}"
