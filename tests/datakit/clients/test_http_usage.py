"""What requests took: columns by hand, shares that sum to what was paid, sums of a stage, prices that are none."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from datakit.apply import apply
from datakit.clients import Sampling
from datakit.clients.http import Address, Asking, HttpGenerator, HttpJudge, Limits
from datakit.clients.http.address import Key
from datakit.clients.http.usage import Meter, Price
from datakit.columns.usage import in_words, taken_of
from datakit.generate import Complete
from datakit.label import Judge
from datakit.run.resource import Resource
from schemas import SAMPLES, with_columns
from schemas.dataset import Dataset
from schemas.errors import ConfigError
from schemas.rows.usage import USAGE_NAMES
from tests.datakit import fakes
from tests.model_server import ModelServer, Raw, http

SAMPLING = Sampling(samples_per_prompt=3, max_new_tokens=8)
PRICE = Price(prompt=2.0, completion=10.0)


def generator(reference: str, meter: Meter, separately: bool = False) -> HttpGenerator:
    asking = Asking.opened(Address.of(reference), Key(), Limits(backoff=0.01, tries=2))
    return HttpGenerator(asking, separately=separately, meter=meter)


def answered(server: ModelServer, given: Dataset, url: Path, meter: Meter, *, separately: bool = False) -> Dataset:
    gives = ("response", "reasoning", *USAGE_NAMES)
    opened = functools.partial(generator, server.reference, meter, separately)
    resources = {"generator": Resource("m", opened, outputs=gives, concurrency=4)}
    return apply(Complete(sampling=SAMPLING), given, str(url), resources=resources)


def counts(made: Dataset) -> dict[str, float]:
    return taken_of(made.manifest.stats["counts"])


def odd(server: ModelServer, body: dict, answer: dict) -> Raw | None:
    """One prompt is refused, one has no count of tokens, one a count that is none, one a missing answer."""
    text = body["messages"][-1]["content"]
    answer["system_fingerprint"] = "fp_1"
    if "0" in text:
        return Raw(http(422, b'{"detail": "no"}'))
    if "1" in text:
        del answer["usage"]
    if "2" in text:
        answer["usage"] = {"prompt_tokens": True, "completion_tokens": -4}
    if "3" in text:
        answer["choices"].pop()
    return None


def test_every_row_says_what_its_request_took_and_shares_sum_to_what_was_paid(put: Any, tmp_path: Path) -> None:
    given = put(fakes.prompts(6), (6,))
    with ModelServer(faults=odd, latency=0.03) as server:
        made = answered(server, given, tmp_path / "s", Meter(PRICE, timed=True))
    by_text: dict[str, list[dict[str, Any]]] = {}
    for row in made.read().to_pylist():
        by_text.setdefault(row["messages"][-1]["content"], []).append(row)
    whole, uncounted = 0, 0
    for text, rows in by_text.items():
        first = {name: rows[0][name] for name in USAGE_NAMES}
        assert all({name: row[name] for name in USAGE_NAMES} == first for row in rows)
        assert first["request_answers"] == 3 and 0.03 < first["request_seconds"] < 30 and first["server"] == "m fp_1"
        known = "1" not in text and "2" not in text
        tokens = (first["request_prompt_tokens"], first["request_completion_tokens"])
        assert tokens == ((3, 15) if known else (None, None))
        assert first["cost"] == (pytest.approx((3 * 2 + 15 * 10) / 1e6 / 3, rel=1e-12) if known else None)
        whole, uncounted = whole + known, uncounted + (not known)
    assert whole and uncounted
    sums = counts(made)
    seconds = sums.pop("seconds")
    assert sums.pop("timed") == whole + uncounted
    assert sums.pop("cost") == pytest.approx(whole * 156 / 1e6, rel=1e-12) and seconds > 0.03 * (whole + uncounted)
    refused = sum("0" in turns[-1]["content"] for turns in given.read()["messages"].to_pylist())
    assert sums == {
        "requests": 6.0, "prompt_tokens": 3.0 * whole, "completion_tokens": 15.0 * whole,
        "uncounted": uncounted + refused,
    }  # fmt: skip
    assert Complete().notes(made.manifest)[0].startswith(f"servers answered 6 requests, {3 * whole} tokens of prompts")


def test_one_request_an_answer_is_counted_as_often_as_it_was_asked(put: Any, tmp_path: Path) -> None:
    with ModelServer() as server:
        made = answered(server, put(fakes.prompts(4), (4,)), tmp_path / "s", Meter(PRICE), separately=True)
    assert {*made.read()["request_answers"].to_pylist()} == {1}
    assert counts(made) == pytest.approx(
        {"requests": 12, "prompt_tokens": 36, "completion_tokens": 60, "cost": 12 * 56 / 1e6}, rel=1e-12
    )
    assert sum(made.read()["cost"].to_pylist()) == pytest.approx(counts(made)["cost"], rel=1e-12)


def test_seconds_are_kept_with_the_answer_and_nowhere_where_the_same_bytes_are_promised(
    put: Any, tmp_path: Path
) -> None:
    given = put(fakes.prompts(4), (4,))
    with ModelServer(latency=0.01) as server:
        first, second = (answered(server, given, tmp_path / name, Meter(PRICE)) for name in ("a", "b"))
        timed = [answered(server, given, tmp_path / name, Meter(PRICE, timed=True)) for name in ("c", "d")]
    assert first.content_digest == second.content_digest and first.read()["request_seconds"].null_count == 12
    assert timed[0].content_digest != timed[1].content_digest
    assert timed[0].read().drop_columns(["request_seconds"]) == first.read().drop_columns(["request_seconds"])


def test_a_judged_row_has_the_sum_over_its_votes(put: Any, tmp_path: Path) -> None:
    def judge(reference: str) -> HttpJudge:
        return HttpJudge(Asking.opened(Address.of(reference), Key(), Limits()), meter=Meter(PRICE, timed=True))

    def some(server: ModelServer, body: dict, answer: dict) -> None:
        if "unknown" in body["messages"][-1]["content"]:
            del answer["usage"]

    rows = with_columns(SAMPLES.example(3), {"response": pa.array(["fine", "unknown", "fine"])})
    op = Judge(votes=2, sampling=Sampling(max_new_tokens=8))
    with ModelServer(faults=some) as server:
        resource = Resource("j", functools.partial(judge, server.reference), outputs=USAGE_NAMES, concurrency=4)
        made = apply(op, put(rows, (3,), SAMPLES), str(tmp_path / "j"), resources={"judge": resource})
        plain = apply(
            op, put(rows, (3,), SAMPLES), str(tmp_path / "p"), resources={"judge": Resource("j", resource.open)}
        )
    columns = ("judge_requests", "judge_prompt_tokens", "judge_completion_tokens", "judge_server")
    took = list(zip(*(made.read()[name].to_pylist() for name in columns), strict=True))
    assert took == [(2, 6, 10, "m"), (2, None, None, "m"), (2, 6, 10, "m")]
    assert made.read()["judge_cost"].to_pylist() == [
        pytest.approx(112 / 1e6, rel=1e-12),
        None,
        pytest.approx(112 / 1e6),
    ]
    assert all(second > 0 for second in made.read()["judge_seconds"].to_pylist())
    sums = counts(made)
    assert {**sums, "seconds": 0, "cost": 0} == {
        "requests": 6, "prompt_tokens": 12, "completion_tokens": 20, "uncounted": 2, "seconds": 0, "cost": 0,
        "timed": 6,
    }  # fmt: skip
    assert op.notes(made.manifest)[-1].endswith("2 without a count of tokens")
    assert not [name for name in plain.schema.names if name.endswith("_cost")] and not counts(plain)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "no table"),
        ("[]", "no table"),
        ('{"m": 3}', "no table"),
        ('{"other": {"prompt": 1, "completion": 1}}', "m is not among other"),
        ('{"m": {"prompt": 1}}', "completion"),
        ('{"m": {"prompt": 1, "completion": "x"}}', "completion"),
        ('{"m": {"prompt": -1, "completion": 1}}', "below 0"),
        ('{"m": {"prompt": NaN, "completion": 1}}', "no table"),
        (None, "cannot be read"),
    ],
)
def test_a_price_that_is_none_is_refused_before_anything_is_asked(text: str | None, words: str, tmp_path: Path) -> None:
    place = tmp_path / "prices.json"
    if text is not None:
        place.write_text(text)
    with pytest.raises(ConfigError, match=words):
        Price.of("m", str(place))
    place.write_text(json.dumps({"m": {"prompt": 0.15, "completion": 0.6}}))
    assert Price.of("m", str(place)) == Price(prompt=0.15, completion=0.6)


def test_nothing_is_said_where_no_server_was_asked() -> None:
    assert in_words({}) == "" and in_words({"requests": 0.0}) == ""
    assert in_words({"requests": 1.0, "cost": 0.000002, "seconds": 0.25, "timed": 1.0}) == (
        "servers answered 1 request, cost 2e-06, 0.25 s a request"
    )
