"""label.judge over scripted judges: planted preferences come back, a bias shows, nothing is dropped or made up."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from datakit.apply import apply
from datakit.clients import PythonJudge
from datakit.clients.sampling import Sampling
from datakit.label import Judge
from datakit.op import Context
from schemas import MESSAGES, PREFERENCES, SAMPLES
from schemas.errors import ConfigError, ServiceError
from tests.datakit.fakes import Example
from tests.datakit.judging.scripted import Scripted, answers_in, compares, first, judge, three, worth

PAIRWISE = Judge.of({"rubric": "pairwise"})
LOUD = Sampling(max_new_tokens=64)
EXAMPLES = [
    Example(Judge(), (SAMPLES.example(9),), judge(three)),
    Example(PAIRWISE, (PREFERENCES.example(9),), judge(first)),
]


def pairs(count: int, seed: int = 0) -> pa.Table:
    """Pairs of answers of known worth, none of them equally good; half the time the chosen one is the worse."""
    drawn = np.random.default_rng(seed).permuted(np.tile(np.arange(10), (count, 1)), axis=1)[:, :2]
    asked = [[{"role": "user", "content": f"question {row}"}] for row in range(count)]
    columns = {"messages": pa.array(asked, MESSAGES)}
    for at, name in enumerate(("chosen", "rejected")):
        columns[name] = pa.array([f"answer {row} worth {value}" for row, value in enumerate(drawn[:, at])], pa.string())
    return pa.table(columns)


def label(op: Judge, rows: pa.Table, say, log=None) -> dict[str, list]:
    made = op.label(rows, Context(resources={"judge": Scripted(say, log)}))
    assert list(made) == [column.name for column in op.adds]
    return {name: values.to_pylist() for name, values in made.items()}


def truth(rows: pa.Table) -> list[str]:
    both = zip(rows["chosen"].to_pylist(), rows["rejected"].to_pylist(), strict=True)
    return ["chosen" if worth(one) > worth(other) else "rejected" for one, other in both]


def share(verdicts: list[str], planted: list[str]) -> float:
    return sum(one == other for one, other in zip(verdicts, planted, strict=True)) / len(planted)


def test_planted_preferences_are_recovered():
    rows = pairs(400)
    made = label(PAIRWISE, rows, compares())
    assert made["judge"] == truth(rows) and {*made["judge_consistent"]} == {1.0}
    assert abs(np.mean(made["judge_first"]) - 0.5) < 1e-9
    assert made["judge_wins"] == [float(side == "chosen") for side in truth(rows)]


def test_a_biased_judge_is_not_believed_where_its_orders_disagree_and_its_bias_shows():
    rows = pairs(600)
    made = label(PAIRWISE, rows, compares(biased=0.5))
    decided = [at for at, side in enumerate(made["judge"]) if side != "tie"]
    assert share([made["judge"][at] for at in decided], [truth(rows)[at] for at in decided]) == 1.0
    assert 0.7 < np.mean(made["judge_first"]) < 0.8  # half by place, and half of the other half
    assert abs(np.mean(made["judge_consistent"]) - 0.5) < 0.08
    alone = label(Judge.of({"rubric": "pairwise", "swap": False}), rows, compares(biased=0.5))
    assert 0.7 < share(alone["judge"], truth(rows)) < 0.8, "one order alone is wrong for every fourth pair"
    assert {*alone["judge_consistent"]} == {None}


def test_votes_of_a_noisy_judge_recover_what_one_does_not():
    rows, say = pairs(300), compares(noisy=0.25)
    one = label(PAIRWISE, rows, lambda content, seed: say(f"{seed % 1000003}" + content, seed))
    many = Judge.of({"rubric": "pairwise", "votes": 15, "sampling": {"max_new_tokens": 64}})
    made = label(many, rows, lambda content, seed: say(f"{seed % 1000003}" + content, seed))
    assert share(one["judge"], truth(rows)) < 0.7 and share(made["judge"], truth(rows)) >= 0.95


def test_a_judge_that_says_tie_or_contradicts_itself_gives_a_tie():
    made = label(PAIRWISE, pairs(3), lambda content, seed: "[[tie]]")
    assert (made["judge"], made["judge_wins"], made["judge_first"]) == (["tie"] * 3, [0.5] * 3, [None] * 3)
    made = label(PAIRWISE, pairs(3), lambda content, seed: "[[A]]")
    assert (made["judge"], made["judge_consistent"], made["judge_first"]) == (["tie"] * 3, [0.0] * 3, [1.0] * 3)


def test_what_is_no_verdict_is_counted_and_no_row_goes():
    replies = [
        {"reply": "I'm sorry, but I can't.", "finish_reason": "stop"},
        {"reply": "[[A]", "finish_reason": "stop"},
        {"reply": "[[A]]", "finish_reason": "length"},
        {"error": "503"},
    ]
    made = label(PAIRWISE, pairs(4), lambda content, seed: replies[int(content.split("question ")[1].split()[0])])
    names = [f"judge_{name}" for name in ("refusal", "unparsed", "truncated", "error")]
    assert [made[name] for name in names] == [[2 * (row == at) for row in range(4)] for at in range(4)]
    assert made["judge"] == made["judge_wins"] == made["judge_first"] == [None] * 4
    assert made["judge_replies"][3] == [None, None] and made["judge_replies"][1] == ["[[A]", "[[A]"]


def test_a_vote_with_one_order_that_cannot_be_read_is_none():
    made = label(PAIRWISE, pairs(50), lambda content, seed: "[[A]]" if worth(answers_in(content)["A"]) > 4 else "?")
    for side, unread in zip(made["judge"], made["judge_unparsed"], strict=True):
        assert (side is None) == (unread > 0)


def test_scores_are_means_of_the_replies_that_could_be_read():
    rows = SAMPLES.example(3)
    op = Judge(votes=4, sampling=LOUD)
    log: list = []
    made = label(op, rows, lambda content, seed: ["[[2]]", "[[4]]", "[[11]]", "[[3]]"][(len(log)) % 4], log)
    assert made["judge"] == [3.0] * 3 and made["judge_unparsed"] == [1] * 3
    assert len({seed for _, seed, _ in log}) == 12
    assert log[0][2]["properties"]["verdict"] == {"type": "integer", "minimum": 1, "maximum": 10}


def test_attributes_and_rankings():
    op = Judge.of({"rubric": {"kind": "attributes", "prompt": ["{answers}"], "lowest": 0, "highest": 4,
                              "attributes": ["clear", "right"]}})  # fmt: skip
    made = label(op, SAMPLES.example(2), lambda content, seed: "clear: [[1]]\nright: [[4]]")
    assert (made["judge_clear"], made["judge_right"]) == ([1.0] * 2, [4.0] * 2)
    rows = pairs(20).append_column("third", pa.array(["answer worth 20"] * 20))
    op = Judge.of({"rubric": "ranking", "answers": ["chosen", "rejected", "third"]})

    def ranks(content: str, seed: int) -> str:
        shown = answers_in(content)
        return f"[[{' > '.join(sorted(shown, key=lambda letter: -worth(shown[letter])))}]]"

    made = label(op, rows, ranks)
    assert made["judge"] == ["third"] * 20 and {*made["judge_consistent"]} == {1.0}
    assert made["judge_ranks"] == [[2.0, 3.0, 1.0] if side == "chosen" else [3.0, 2.0, 1.0] for side in truth(rows)]


def test_the_order_is_by_lot_and_follows_the_row_alone():
    op, rows = Judge.of({"rubric": "pairwise", "swap": False}), pairs(200)
    made = label(op, rows, lambda content, seed: "[[A]]")
    assert 70 < made["judge"].count("chosen") < 130
    turned = label(op, rows.take(list(range(200))[::-1]), lambda content, seed: "[[A]]")
    assert turned["judge"] == made["judge"][::-1]


def test_a_reply_that_lacks_is_no_verdict_of_another():
    class Short(Scripted):
        def judge(self, *given) -> pa.Table:
            return super().judge(*given).slice(1)

    with pytest.raises(ServiceError, match="asked 6 questions, got 5 replies"):
        PAIRWISE.label(pairs(3), Context(resources={"judge": Short(compares())}))


def test_notes_say_how_many_replies_hold_no_verdict(put, tmp_path):
    out = apply(PAIRWISE, put(PREFERENCES.example(4)), str(tmp_path / "o"), resources=judge(lambda *_: "?"))
    assert PAIRWISE.notes(out.manifest) == ("8 of 8 replies of the judge hold no verdict: 8 unparsed",)
    assert out.num_rows == 4


def test_the_rubric_is_part_of_the_key_and_its_place_is_not(tmp_path):
    place = tmp_path / "mine.json"
    place.write_text('{"kind": "score", "prompt": ["{answers}"]}')
    first = Judge.of({"rubric": str(place)})
    assert first == Judge.of({"rubric": {"kind": "score", "prompt": ["{answers}"]}})
    place.write_text('{"kind": "score", "prompt": ["{answers} again"]}')
    assert Judge.of({"rubric": str(place)}).to_json() != first.to_json()


@pytest.mark.parametrize(
    "settings",
    [
        {"rubric": "pairwise", "answers": ["a"]},
        {"rubric": "pairwise", "answers": ["a", "a"]},
        {"rubric": "ranking"},
        {"votes": 0},
        {"votes": 2},
        {"sampling": {"samples_per_prompt": 2}},
    ],
)
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(ConfigError, match="bad-setting"):
        Judge.of(settings)


@pytest.mark.parametrize(
    ("function", "why"),
    [("short", "was asked 2 replies, got 1"), ("number", "no text for conversation 1"), ("later", "a coroutine")],
)
def test_a_function_that_is_no_judge_is_told_what_it_returned(tmp_path, monkeypatch, function, why):
    (tmp_path / "my_judges.py").write_text(
        "def short(conversations): return ['[[3]]']\n"
        "def number(conversations): return [None, 3]\n"
        "async def later(conversations): return []\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ServiceError, match=why) as caught:
        Judge().label(SAMPLES.example(2), Context(resources={"judge": PythonJudge(f"my_judges:{function}")}))
    assert caught.value.kept.endswith("; no replies of this one")
