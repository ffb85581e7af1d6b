"""label.reward: one finite number per row, or a rejected row; a scorer that does not answer is an error."""

from __future__ import annotations

import functools
import math
from typing import ClassVar

import pyarrow as pa
import pytest

from datakit.apply import apply
from datakit.clients import PythonScorer, Scorer
from datakit.label import Reward
from datakit.op import Context
from datakit.run.resource import Resource
from schemas import Column, Schema
from schemas.errors import ConfigError, DataError, ServiceError
from tests.datakit.fakes import Example, LengthScorer, prompts, responses, scorer

EXAMPLES = [Example(Reward(rows_per_chunk=5), (responses(*("x" * i for i in range(13))),), scorer())]
TAKES = Schema("answers", 1, (Column("response", pa.string(), "the answer"),))


def brevity(response):
    return [-len(text) for text in response]


def two_numbers(response):
    return {
        "long": [len(text) for text in response],
        "odd": [None if text == "b" else len(text) % 2 for text in response],
    }


def one_too_few(response):
    return brevity(response)[1:]


def text(response):
    return response


def yes(response):
    return [True for _ in response]


def huge(response):
    return [1.0, 10**5000]  # more digits than Python writes


def lists(response):
    return [[1.0] for _ in response]


def endless(response):
    while True:
        yield 1.0


def half(response):
    return [len(text) if text == "a" else text for text in response]


def nothing(response):
    return None


def one_text(response):
    return "12"


async def later(response):
    return brevity(response)


def waits(response):
    return later(response)


async def later_still(response):
    for text in response:
        yield len(text)


def waits_within(response):
    return {"reward": later(response)}


def generated(response):
    yield from brevity(response)


def generated_once(response):
    yield brevity(response)


NOT_CALLABLE = 3


ASYNC = "an asynchronous generator (of an async def with yield), which holds no scores until somebody waits for it"
COROUTINE = "a coroutine (of an async def), which holds no scores until somebody waits for it"


def python(name: str) -> dict[str, Resource]:
    return {"scorer": Resource(name, functools.partial(PythonScorer, f"{__name__}:{name}", TAKES), TAKES)}


@pytest.mark.parametrize("processes", [0, 1])
def test_a_function_is_a_scorer(put, tmp_path, processes):
    assert isinstance(PythonScorer(f"{__name__}:brevity", TAKES), Scorer)
    given = put(responses("a", "bbb"))
    out = apply(Reward(), given, str(tmp_path / "out"), resources=python("brevity"), processes=processes)
    assert out.read()["reward"].to_pylist() == [-1.0, -3.0]


def test_rewards_stand_side_by_side(put, tmp_path):
    first = apply(
        Reward(reads="long", column="length"),
        put(responses("a", "bb")),
        str(tmp_path / "1"),
        resources=python("two_numbers"),
    )
    both = apply(Reward(reads="odd", column="odd"), first, str(tmp_path / "2"), resources=python("two_numbers"))
    assert both.read().select(["length", "odd"]).to_pylist() == [
        {"length": 1.0, "odd": 1.0},
        {"length": 2.0, "odd": 0.0},
    ]


COUNTS = {"vowels": "aeiou", "blanks": " ", "stops": "."}


class CountsScorer(LengthScorer):
    """Three numbers a row; each call leaves a line in `calls`. A row of no characters has no blanks."""

    calls: ClassVar[list[int]] = []

    def score(self, rows):
        texts = rows["response"].to_pylist()
        self.calls.append(len(texts))
        return {
            name: pa.array([None if not text and name == "blanks" else sum(map(text.count, of)) for text in texts])
            for name, of in COUNTS.items()
        }


def counting() -> dict[str, Resource]:
    CountsScorer.calls.clear()
    return {"scorer": Resource("counts", CountsScorer, TAKES, outputs=tuple(COUNTS))}


def test_all_numbers_of_a_scorer_are_columns_of_one_pass(put, tmp_path):
    given = put(responses("a b.", "xyz", "oo  "))
    out = apply(Reward(), given, str(tmp_path / "out"), resources=counting())
    assert out.read().select([*COUNTS]).to_pydict() == {"vowels": [1, 0, 2], "blanks": [1, 0, 2], "stops": [1, 0, 0]}
    assert CountsScorer.calls == [3] and "reward" not in out.schema
    assert out.manifest.op["params"]["reads"] == [*COUNTS]
    some = apply(Reward(reads=("stops", "vowels")), given, str(tmp_path / "some"), resources=counting())
    assert some.schema.names[-2:] == ("stops", "vowels") and "blanks" not in some.schema
    one = apply(Reward(reads="stops"), given, str(tmp_path / "one"), resources=counting())
    assert one.read()["reward"].to_pylist() == [1, 0, 0]


def test_a_row_goes_whose_numbers_are_not_all_finite_and_the_one_is_named(put, tmp_path):
    given = put(responses("a", "", "o"))
    out = apply(Reward(), given, str(tmp_path / "out"), resources=counting(), max_rejected=1)
    assert out.read()["vowels"].to_pylist() == [1, 1]
    assert out.read_rejected().select(["reason", "value", "threshold"]).to_pylist() == [
        {"reason": "reward-not-finite", "value": None, "threshold": "finite blanks"}
    ]


@pytest.mark.parametrize("reads", ["reward", ("vowels", "reward")])
def test_a_number_that_the_scorer_does_not_have_is_refused_before_it_is_asked(put, tmp_path, reads):
    with pytest.raises(ConfigError, match=r"unknown-output.* the scorer gives no reward") as caught:
        apply(Reward(reads=reads), put(responses("a")), str(tmp_path / "out"), resources=counting())
    assert caught.value.expected == "vowels, blanks, stops" and not CountsScorer.calls


def test_several_numbers_have_no_other_name(put, tmp_path):
    for wrong in ({"reads": ("a", "a")}, {"reads": ("a", "b"), "column": "c"}):
        with pytest.raises(ConfigError, match="several numbers are columns of their own names"):
            Reward(**wrong)
    with pytest.raises(ConfigError, match="several numbers"):
        apply(Reward(column="c"), put(responses("a")), str(tmp_path / "out"), resources=counting())


def test_one_number_has_the_identity_that_it_always_had():
    for op in (Reward(), Reward().with_outputs({"scorer": ("reward",)}), Reward(reads="reward")):
        assert op.params() == {"reads": "reward", "column": "reward", "rows_per_chunk": 1024}
    assert Reward(column="other").with_outputs({"scorer": ("reward",)}).params()["column"] == "other"
    named = Reward().with_outputs({"scorer": ("quality",)})
    assert named.params() == Reward(reads="quality", column="quality").params()
    assert Reward.of(named.params()).adds == named.adds


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf, None], ids=str)
def test_a_reward_that_is_not_finite_stops_the_run_or_is_set_aside(put, tmp_path, odd):
    given, resources = put(responses("a", "bb", "ccc")), scorer(odd={"bb": odd})
    with pytest.raises(DataError) as caught:
        apply(Reward(), given, str(tmp_path / "out"), resources=resources)
    assert caught.value.render().startswith(
        "error[10/reward-not-finite]: label.reward rejected 1 of the first 3 rows: sample_id=s1"
    )
    out = apply(Reward(), given, str(tmp_path / "out"), resources=resources, max_rejected=1)
    assert out.read()["reward"].to_pylist() == [1.0, 3.0]
    assert out.read_rejected().select(["sample_id", "reason"]).to_pylist() == [
        {"sample_id": "s1", "reason": "reward-not-finite"}
    ]
    assert out.stats["columns"]["reward"]["mean"] == 2.0


@pytest.mark.parametrize(
    ("name", "what"), [("one_too_few", "asked 2 scores, got 1"), ("text", "no number"), ("yes", "no number")]
)
def test_a_bad_reply_is_an_error(put, tmp_path, name, what):
    with pytest.raises(ServiceError, match=rf"error\[13/bad-reply\].*{what}"):
        apply(Reward(), put(responses("a", "bb")), str(tmp_path / "out"), resources=python(name))


@pytest.mark.parametrize(
    ("name", "what", "actual"),
    [
        ("half", "returned what is no number for row 1 of the 2 that it was handed: response=bb", "str bb"),
        (
            "huge",
            "returned what is no number for row 1 of the 2 that it was handed: response=bb",
            "int, which has no text",
        ),
        ("lists", "returned what is no number for row 0 of the 2 that it was handed: response=a", "list [1.0]"),
        (
            "endless",
            "was asked 2 scores, got 3 of a generator (def with yield: its return gives nothing)",
            "3 of them",
        ),
        ("nothing", "returned no list", "NoneType None"),
        ("one_text", "returned no list", "str 12"),
        ("one_too_few", "was asked 2 scores, got 1", "1 of them"),
        ("waits", f"returned {COROUTINE}", "a coroutine (of an async def)"),
        ("waits_within", f"returned {COROUTINE}", "a coroutine (of an async def)"),
        ("later", f"returned {COROUTINE}", "a coroutine (of an async def)"),
        (
            "later_still",
            f"returned {ASYNC}",
            "an asynchronous generator (of an async def with yield)",
        ),
        (
            "generated_once",
            "was asked 2 scores, got 1 of a generator (def with yield: its return gives nothing)",
            "1 of them",
        ),
    ],
)
def test_a_bad_reply_names_the_row_and_the_line_and_what_to_return(put, tmp_path, name, what, actual):
    with pytest.raises(ServiceError, match="bad-reply") as caught:
        apply(Reward(), put(responses("a", "bb")), str(tmp_path / "out"), resources=python(name))
    error, line = caught.value, globals()[name].__code__.co_firstlineno
    assert error.what.endswith(f":{name} {what}") and error.found == actual
    assert error.where == f"line {line} of {__file__}" and "no scores of this one" in error.kept
    assert error.next.startswith("return ") and error.next.endswith(", then run the same command again")


@pytest.mark.filterwarnings("error")
def test_a_generator_of_one_score_a_row_is_a_list(put, tmp_path):
    out = apply(Reward(), put(responses("a", "bb")), str(tmp_path / "out"), resources=python("generated"))
    assert out.read(["reward"])["reward"].to_pylist() == [-1.0, -2.0]


@pytest.mark.parametrize(
    ("reply", "what"),
    [
        ({}, "there is no reward"),
        ({"reward": pa.array([1.0])}, "asked 2 scores, got 1"),
        ({"reward": pa.array(["1", "2"])}, "no number"),
    ],
)
def test_a_scorer_that_answers_otherwise_is_refused(reply, what):
    class Other(LengthScorer):
        def score(self, rows):
            return reply

    with pytest.raises(ServiceError, match=what):
        Reward().label(responses("a", "bb"), Context(resources={"scorer": Other()}))


def test_what_the_scorer_reads_is_checked_before_any_work(put, tmp_path):
    given = put(responses("a").drop_columns(["response"]).replace_schema_metadata())
    with pytest.raises(DataError, match=r"the scorer of label.reward cannot read .* no column response"):
        apply(Reward(), given, str(tmp_path / "out"), resources=scorer())
    with pytest.raises(ConfigError, match=r"label.reward needs scorer; no scorer was given"):
        apply(Reward(), put(responses("a")), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_what_the_scorer_reads_is_reported_even_where_its_resource_did_not(put, tmp_path):
    with pytest.raises(DataError, match=r"no column response"):
        apply(
            Reward(),
            put(prompts(2)),
            str(tmp_path / "out"),
            resources={"scorer": Resource("x", LengthScorer)},
        )


@pytest.mark.parametrize("name", ["nowhere:at_all", "math:nothing", "math", f"{__name__}:NOT_CALLABLE", ":x", ""])
def test_functions_that_cannot_be_had_are_refused(name):
    with pytest.raises(ConfigError, match="no-function"):
        PythonScorer(name, TAKES)
