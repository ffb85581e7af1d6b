"""filter.dedup_near: what stays is unlike all that stays before it; the rest names the row that it repeats."""

from __future__ import annotations

import random
import re
import unicodedata

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datakit.apply import apply, check
from datakit.columns import kept_sets, minhash, row_texts
from datakit.columns.conversations import of_rows
from datakit.columns.ngrams import Runs, ngrams, units
from datakit.duck import near
from datakit.duck.session import Session
from datakit.filter import DedupNear, dedup_near
from schemas import Column, Schema
from schemas.errors import ConfigError, DataError
from tests.datakit.fakes import Example
from tests.tail import late

SCHEMA = Schema(
    "answers",
    1,
    (
        Column("sample_id", pa.string(), ""),
        Column("response", pa.string(), "", nullable=True),
        Column("reward", pa.float64(), "", nullable=True),
    ),
    key=("sample_id",),
)
FOX = "the quick brown fox jumps over the lazy dog and runs far away into the deep green woods of the north"


def table(texts, rewards=None):
    rewards = rewards or [0.0] * len(texts)
    return pa.table(
        {"sample_id": [f"r{i}" for i in range(len(texts))], "response": texts, "reward": rewards}, schema=SCHEMA.arrow
    )


EXAMPLES = [
    Example(DedupNear(), (table([FOX, "another text", FOX + " again", None, "", FOX.upper(), "another: TEXT!", "x"]),)),
    Example(DedupNear(best="reward", unit="characters"), (table([FOX, FOX[:-1], FOX], [0.0, 2.0, 1.0]),)),
]


def grams(text, n, unit="words"):
    """The set of n-grams as the paper has it, over strings."""
    text = unicodedata.normalize("NFKC", text or "").lower()
    letters = "".join(c if unicodedata.category(c)[0] in "LMN" else " " for c in text)
    parts = letters.split() if unit == "words" else list(" ".join(letters.split()))
    return {tuple(parts[i : i + n]) for i in range(max(len(parts) - n + 1, 1))} if parts else set()


def jaccard(a, b):
    return len(a & b) / len(a | b) if a | b else 0.0


def greedy(texts, order, least, n, unit="words"):
    """The rows that go: all compared with all that stay before them."""
    sets, stay = [grams(text, n, unit) for text in texts], []
    for row in order:
        if all(jaccard(sets[row], sets[other]) < least for other in stay):
            stay.append(row)
    return {*order} - {*stay}


def gone_of(out):
    if not out.rejected:
        return {}
    rows = out.read_rejected().select(["sample_id", "threshold", "value", "reason"]).to_pylist()
    assert {row["reason"] for row in rows} == {"near-duplicate"}
    return {int(row["sample_id"][1:]): (int(row["threshold"][1:]), row["value"]) for row in rows}


def test_by_hand(put, tmp_path):
    """19 trigrams; a last word of its own shares 18 of 20, two words more share 19 of 21."""
    texts = [FOX, "Something else.", FOX[:-5] + "south", FOX + " where snow", None, "", "something: ELSE", "fox"]
    out = apply(DedupNear(), put(table(texts), (2, 5), SCHEMA), str(tmp_path / "o"))
    assert gone_of(out) == {2: (0, 18 / 20), 3: (0, 19 / 21), 6: (1, 1.0)}
    assert out.read()["response"].to_pylist() == [FOX, "Something else.", None, "", "fox"]


def test_the_best_of_a_cluster_stays_and_one_without_a_number_is_the_last(put, tmp_path):
    rows = table([FOX, FOX + " a", FOX + " b", FOX + " c"], [float("nan"), 1.0, 2.0, None])
    out = apply(DedupNear(best="reward"), put(rows, schema=SCHEMA), str(tmp_path / "o"))
    assert {row: stays for row, (stays, _) in gone_of(out).items()} == {0: 2, 1: 2, 3: 2}


def test_no_row_goes_for_one_that_goes(put, tmp_path):
    """Each is like its neighbours and unlike the others: every second one stays."""
    words = [f"w{i}" for i in range(60)]
    texts = [" ".join(words[5 * i : 5 * i + 32]) for i in range(6)]
    assert jaccard(grams(texts[0], 3), grams(texts[1], 3)) > 0.6 > jaccard(grams(texts[0], 3), grams(texts[2], 3))
    out = apply(DedupNear(similarity=0.6), put(table(texts), (3,), SCHEMA), str(tmp_path / "o"))
    assert {row: stays for row, (stays, _) in gone_of(out).items()} == {1: 0, 3: 2, 5: 4}


def test_conversations_are_compared_without_their_system_prompts(put, tmp_path):
    chats = [[("user", FOX), ("assistant", "yes")], [("system", "be kind " * 40), ("user", FOX), ("assistant", "yes")]]
    rows = pa.table({"messages": of_rows([*chats, [("system", "be kind " * 40), ("user", "why?")]])})
    out = apply(DedupNear(columns=("messages",)), put(rows), str(tmp_path / "o"))
    assert out.num_rows == 2 and out.read_rejected()["threshold"].to_pylist() == ["0"]


WORDS = ("a", "b", "c", "d", "Ä", "ß", "七", "e\u0301", "x1", "!", ".")


@pytest.mark.parametrize("most", [1, late(7), 1024])
@pytest.mark.parametrize(("unit", "n", "best", "together"), [("words", 1, "reward", 1), ("characters", 3, "", 60)])
def test_against_all_with_all(put, tmp_path, monkeypatch, unit, n, best, together, most):
    """Where all rows meet in one bucket nothing can be missed: the very rows, ids and similarities."""
    rng = random.Random(2)
    texts = [" ".join(rng.choices(WORDS, k=rng.randrange(9))) for _ in range(150)]
    rewards = [float(len(text) % 3) for text in texts]
    monkeypatch.setattr(row_texts, "_BATCH_ROWS", 30)
    monkeypatch.setattr(row_texts, "_BATCH_BYTES", 200)
    monkeypatch.setattr(kept_sets, "_TOGETHER", together)
    monkeypatch.setattr(near, "_MOST_ROWS", most)
    monkeypatch.setattr(dedup_near, "bands", lambda similarity: (2, 1))
    monkeypatch.setattr(dedup_near, "buckets", lambda sets, *shape: np.full((len(sets.sizes), 2), 7, np.uint64))
    op = DedupNear(similarity=0.5, n=n, unit=unit, best=best)
    went = gone_of(apply(op, put(table(texts, rewards), (40, 41), SCHEMA), str(tmp_path / "o")))
    order = sorted(range(len(texts)), key=lambda row: (-rewards[row], row) if best else row)
    assert 20 < len(went) < 150 and went.keys() == greedy(texts, order, 0.5, n, unit)
    for row, (other, value) in went.items():
        assert value == pytest.approx(jaccard(grams(texts[row], n, unit), grams(texts[other], n, unit)), abs=1e-12)
        assert value >= 0.5 and other not in went and order.index(other) < order.index(row)


def test_rows_that_meet_and_are_not_alike_are_compared_once_in_few_rounds():
    """Texts with a template in common: none is the first of all its buckets but one."""
    rows, calls = 3000, []

    class Unlike:
        def similarities(self, one, other):
            raise AssertionError("one by one")

        def facing(self, standing):
            return FacingUnlike(standing)

    class FacingUnlike:
        def __init__(self, standing):
            self.standing = standing

        def similarities(self, others):
            calls.append((len(self.standing), len(others)))
            return np.zeros(calls[-1])

    number = pa.array(range(rows))
    light = pa.table({"n": number, "buckets": [[0, 1 + row % 2] for row in range(rows)]})
    with Session() as session:
        session.add("rows", light)
        session.add("places", pa.table({"n": number, "place": number}))
        near.near_repeats(session, 0.5, Unlike())
        assert session.rows("SELECT count(*) FROM gone") == [(0,)]
    assert [call for call in calls if call[0] == call[1]][:1] == [(1024, 1024)]
    assert {standing for standing, _ in calls} == {1024, 952} and len(calls) <= 10
    assert sum(standing * others for standing, others in calls) == 2 * 1024**2 + 952**2 + 1024 * (1976 + 952)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from(WORDS), max_size=9).map(" ".join), max_size=9),
    st.sampled_from(["words", "characters"]),
    st.integers(1, 4),
)
def test_ngrams_against_sets_of_strings(texts, unit, n):
    made = ngrams(units(pa.array(texts, pa.string()), unit), n, short=True).distinct()
    expected = [grams(text, n, unit) for text in texts]
    assert made.sizes.tolist() == [len(one) for one in expected]
    rows = [set(made.keys[a:b].tolist()) for a, b in zip(made.starts[:-1], made.starts[1:], strict=True)]
    for i, one in enumerate(rows):
        for j, other in enumerate(rows[:i]):
            assert len(one & other) == len(expected[i] & expected[j])


def test_bands_meet_as_often_as_the_formula_says():
    """2,000 pairs of sets of a known Jaccard similarity, 8 numbers of each 20 in common."""
    rng = np.random.default_rng(3)
    common, own = rng.integers(0, 1 << 63, (2000, 100), np.uint64), rng.integers(0, 1 << 63, (2, 2000, 25), np.uint64)
    keys = [np.sort(np.concatenate([common, more], axis=1)).ravel() for more in own]
    made = [minhash.buckets(Runs(k, np.arange(2001) * 125), 16, 8) for k in keys]
    share = (made[0] == made[1]).mean()
    s = 100 / 150
    assert share == pytest.approx(s**8, abs=4 * (s**8 * (1 - s**8) / 32000) ** 0.5 + 0.004)
    met = (made[0] == made[1]).any(axis=1).mean()
    assert met == pytest.approx(minhash.meeting(s, 16, 8), abs=0.05)


@pytest.mark.parametrize("similarity", [0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 1.0])
def test_bands_are_the_widest_that_find_pairs_just_as_alike(similarity):
    count, width = minhash.bands(similarity)
    assert count * width <= minhash.PERMUTATIONS
    assert minhash.meeting(similarity, count, width) >= minhash.RECALL or width == 1
    wider = minhash.PERMUTATIONS // (width + 1)
    assert not wider or minhash.meeting(similarity, wider, width + 1) < minhash.RECALL


def test_planted_copies_are_found_and_nothing_else_goes(put, tmp_path):
    rng = random.Random(5)
    words = [f"{rng.getrandbits(24):x}" for _ in range(3000)]
    originals = [" ".join(rng.choice(words) for _ in range(60)) for _ in range(600)]
    copies = []
    for text in originals[:200]:
        parts = text.split()
        for place in rng.sample(range(60), 2):
            parts[place] = rng.choice(words)
        copies.append(" ".join(parts))
    out = apply(DedupNear(), put(table(originals + copies), (300,), SCHEMA), str(tmp_path / "o"))
    gone = gone_of(out)
    assert len(gone) >= 190
    assert all(row >= 600 and stays == row - 600 for row, (stays, _) in gone.items())
    assert re.fullmatch(r"r\d+", out.read_rejected()["threshold"][0].as_py())


def test_settings_are_checked():
    for wrong in ({"columns": ()}, {"similarity": 0.0}, {"similarity": 1.5}, {"n": 0}, {"columns": ("a", "a")}):
        with pytest.raises(ConfigError) as fault:
            DedupNear(**wrong)
        assert fault.value.slug == "bad-setting"
    with pytest.raises(DataError, match="reward is double, needed string"):
        check(DedupNear(columns=("reward",)), (SCHEMA,), {})
    with pytest.raises(ConfigError, match="needs a number in response"):
        check(DedupNear(best="response"), (SCHEMA,), {})
