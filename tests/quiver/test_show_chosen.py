"""`quiver show NAME --where PREDICATE` and `--sample N`: which rows, and that the text can do nothing else."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from quiver import console
from quiver.chosen_rows import Choice, chosen_rows
from schemas import SAMPLES, Dataset
from schemas.errors import ConfigError, QuiverError
from tests.datakit.catalog.workspaces import REWARDED, Maker, rewarded, samples
from tests.quiver.answers import answer

NAME = "rest/own/rewards"


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Maker:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return Maker(tmp_path / "quiver-data")


def dataset(make: Maker, variant: int, *cuts: int) -> Dataset:
    """60 rows with rewards 0 to 59, in shards that end at `cuts`."""
    rows = rewarded(samples(60), [float(number) for number in range(60)])
    bounds = (0, *cuts, 60)
    shards = [rows[start:end] for start, end in pairwise(bounds)]
    return make(f"{NAME}-0000000{variant}", REWARDED, shards)


def test_the_first_rows_for_which_it_holds_have_their_numbers(make: Maker, capsys: pytest.CaptureFixture[str]) -> None:
    dataset(make, 1, 7, 33)
    text = answer(capsys, "show", NAME, "--where", "reward % 10 = 4 AND reward > 5", "--rows", "3")
    assert [line for line in text.splitlines() if line.startswith("row ")] == ["row 14", "row 24", "row 34"]
    assert "holds for 5 of them" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 80
    assert "holds for 0 of them" in " ".join(answer(capsys, "show", NAME, "--where", "reward < 0").split())
    assert "holds for 60 of them" in " ".join(answer(capsys, "show", NAME, "--where", "true").split())


def test_conversations_are_read_by_turns(make: Maker, capsys: pytest.CaptureFixture[str]) -> None:
    """A line for each where rows are whole; what stands beside the words of a turn is not left out."""
    turns = [
        {"role": "user", "content": "What is\n2 + 3?"},
        {"role": "assistant", "content": None, "reasoning": "It is a sum."},
        {"role": "user", "content": "\x1b[31mWell?"},
    ]
    rows = samples(1)
    place, field = rows.column_names.index("messages"), rows.schema.field("messages")
    make("own/samples-00000001", SAMPLES, rows.set_column(place, field, pa.array([turns], field.type)))
    cut = answer(capsys, "show", "own/samples", "--rows", "1")
    assert "  messages       user: What is\\n2 + 3? | assistant: {" in cut and "{'" not in cut
    assert "None" not in cut and max(map(len, cut.splitlines())) <= 80
    whole = answer(capsys, "show", "own/samples", "--rows", "1", "--whole").splitlines()
    first = whole.index("  messages       user: What is\\n2 + 3?")
    assert whole[first + 1].split(maxsplit=1) == ["assistant:", '{"reasoning": "It is a sum."}']
    assert whole[first + 2].startswith(" " * 17 + "user: ") and "\x1b" not in "".join(whole)
    assert "user: What is" in answer(capsys, "sql", "SELECT messages FROM samples")


def test_rows_that_were_set_aside_are_shown_by_the_name(make: Maker, capsys: pytest.CaptureFixture[str]) -> None:
    aside = samples(2, 5)
    for column, value in (("reason", "below"), ("value", 0.5), ("threshold", "reward > 1")):
        aside = aside.append_column(column, pa.array([value] * 2))
    make("own/kept-00000001", SAMPLES, samples(3), rejected=aside)
    text = answer(capsys, "show", "own/kept/rejected", "--rows", "1")
    assert text.startswith("2 rows set aside") and "  sample_id      s5\n" in text


def test_a_sample_is_the_same_however_rows_lie_and_another_with_another_seed(make: Maker) -> None:
    one, other = dataset(make, 1), dataset(make, 2, 1, 20, 21)
    for predicate in ("", "reward >= 20"):
        drawn = chosen_rows(one, Choice(9, predicate, 7))
        assert chosen_rows(other, Choice(9, predicate, 7)) == drawn
        assert chosen_rows(one, Choice(9, predicate, 8)).numbers != drawn.numbers
        assert drawn.rows["reward"].to_pylist() == [float(number) for number in drawn.numbers]
    assert all(number >= 20 for number in drawn.numbers) and drawn.matching == 40
    assert chosen_rows(one, Choice(99, "", 7)).numbers == tuple(range(60))
    assert chosen_rows(one, Choice(0, "", 7)).rows.num_rows == 0


def test_every_row_is_drawn_as_often_as_any_other(make: Maker) -> None:
    """6 of 60 rows, 150 seeds: each of them 15 times, give or take four standard deviations."""
    rows = dataset(make, 1, 10)
    counts = np.zeros(60)
    for seed in range(150):
        counts[list(chosen_rows(rows, Choice(6, "", seed)).numbers)] += 1
    assert counts.sum() == 900
    assert np.all(np.abs(counts - 15) < 4 * np.sqrt(150 * 0.1 * 0.9))


@pytest.mark.parametrize(
    "predicate",
    [
        "read_text('/etc/passwd') = ''",
        "(SELECT true)",
        "random() < 0.5",
        "true; DROP TABLE rows",
        "",
        "1",
    ],
)
def test_the_predicate_can_do_nothing_else(make: Maker, predicate: str) -> None:
    dataset(make, 1)
    with pytest.raises(ConfigError):
        console.run(["show", NAME, "--where", predicate])


def test_a_wrong_column_has_the_near_one(make: Maker) -> None:
    dataset(make, 1)
    with pytest.raises(ConfigError) as caught:
        console.run(["show", NAME, "--where", "rewrad > 1"])
    assert caught.value.nearest == "reward" and caught.value.next.startswith("quiver show")


def test_rows_as_json_are_whole_and_have_their_numbers(make: Maker, capsys: pytest.CaptureFixture[str]) -> None:
    shown = dataset(make, 1, 7, 33)
    facts = json.loads(
        answer(capsys, "show", NAME, "--where", "reward % 10 = 4 AND reward > 5", "--rows", "3", "--json")
    )
    assert (facts["kind"], facts["rows"], facts["matching"], facts["made_by"]) == ("dataset", 60, 5, "io.jsonl")
    assert [one["row"] for one in facts["shown"]] == [14, 24, 34]
    expected = shown.read().take([14, 24, 34]).to_pylist()
    assert [one["values"] for one in facts["shown"]] == expected
    assert [one["name"] for one in facts["columns"]] == [*REWARDED.names] and facts["columns"][-1]["meaning"]
    assert [one["row"] for one in json.loads(answer(capsys, "show", NAME, "--json"))["shown"]] == [0, 1, 2]
    with pytest.raises(ConfigError, match="no dataset and no checkpoint"):
        console.run(["show", "quiver-data/rest", "--json"])


@pytest.mark.parametrize(
    "flags",
    [
        ["--sample", "2", "--rows", "2"],
        ["--seed", "2"],
        ["--sample", "x"],
        ["--mask", "--where", "true"],
        ["--json", "--mask"],
        ["--json", "--whole"],
    ],
)
def test_flags_that_exclude_each_other_are_refused(make: Maker, flags: list[str]) -> None:
    dataset(make, 1)
    with pytest.raises(QuiverError, match="other words"):
        console.run(["show", NAME, *flags])


def test_a_row_that_cannot_be_worked_out_is_left_out(make: Maker) -> None:
    """As in `filter.where`: an error in a row is no fault of the others."""
    rows = make(f"{NAME}-00000009", REWARDED, rewarded(samples(3), [1.0, 2.0, 3.0]))
    assert chosen_rows(rows, Choice(3, "sqrt(reward - 2) >= 0")).numbers == (1, 2)
