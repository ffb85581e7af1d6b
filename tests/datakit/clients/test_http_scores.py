"""What a server thinks of given tokens, and the numbers of a reward model that it answers for."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from datakit.apply import apply
from datakit.clients import Scorer, TokenModel
from datakit.clients.http import Address, Asking, HttpScorer, HttpTokenModel, Limits
from datakit.clients.http.address import Key
from datakit.label import Reward
from datakit.run.resource import Resource
from schemas import SAMPLES
from schemas.errors import ConfigError, DataError
from tests.datakit.fakes import RESPONSES
from tests.model_server import Body, ModelServer, Raw, http, thought

ROWS = [np.array(ids, np.int64) for ids in ([3, 1, 4], [1, 5], [9, 2, 6, 5, 3], [5])]
TAKES = SAMPLES.selecting("messages", "response")


def asking(server: ModelServer) -> Asking:
    return Asking.opened(Address.of(server.reference), Key(), Limits(backoff=0.01, tries=2))


def test_log_probabilities_of_given_tokens_are_those_of_the_server() -> None:
    def odd(server: ModelServer, body: Body, answer: Body) -> Raw | None:
        return Raw(http(400, b"{}")) if body["prompt"] == [1, 5] and body.get("echo") else None

    with ModelServer(faults=odd) as server:
        model = HttpTokenModel(asking(server))
        try:
            assert isinstance(model, TokenModel)
            logprobs = model.logprobs(ROWS).to_pylist()
            ids, values = (one.to_pylist() for one in model.top_k(ROWS, 2))
            with pytest.raises(ConfigError, match="does not say the entropy"):
                model.entropies(ROWS)
        finally:
            model.close()
    for row, ids_of_row, given in zip(ROWS, ids, logprobs, strict=True):
        expected = [0.0, *(thought(int(one)) for one in row[1:])]
        assert np.isnan(given).all() if row.tolist() == [1, 5] else np.allclose(given, expected)
        assert ids_of_row == [[0, 0], *([int(one), int(one) + 1] for one in row[1:])]
    assert values[0] == [[0.0, 0.0], [0.0, -0.125], [0.0, -0.125]] and len(values[3]) == 1


def rows(*texts: str) -> pa.Table:
    turns = [[{"role": "user", "content": "q"}] for _ in texts]
    return TAKES.conform(pa.table({"messages": turns, "response": list(texts)}))


def scores(server: ModelServer, *texts: str, **how: Any) -> dict[str, list[float | None]]:
    scorer = HttpScorer(asking(server), TAKES, **how)
    try:
        assert isinstance(scorer, Scorer)
        return {name: values.to_pylist() for name, values in scorer.score(rows(*texts)).items()}
    finally:
        scorer.close()


def test_reward_models_score_the_answer_behind_its_question() -> None:
    with ModelServer() as server:
        for api in ("classify", "pooling"):
            assert scores(server, "a", "four", api=api) == {"reward": [1.0, 4.0]}
        assert scores(server, "a", names=("x", "y")) == {"x": [None], "y": [None]}
    last_turns = [body["messages"][-1] for body in server.bodies[:2]]
    assert all(turn["role"] == "assistant" for turn in last_turns)
    assert sorted(turn["content"] for turn in last_turns) == ["a", "four"]


@pytest.mark.parametrize(
    ("choice", "numbers"),
    [
        ({"message": {"content": "reward:-3.5"}}, {"reward": -3.5}),
        ({"message": [{"content": "helpfulness:1.5, coherence: 3e0"}]}, {"helpfulness": 1.5, "coherence": 3.0}),
        ({"logprobs": {"content": [{"token": "verbosity", "logprob": 0.25}]}}, {"verbosity": 0.25}),
        ({"message": {"content": "I think reward:-3.5 is fair"}}, {}),
        ({"message": {"content": "reward:nan"}}, {}),
    ],
)
def test_rewards_in_chat_are_read_strictly(choice: Body, numbers: dict[str, float]) -> None:
    with ModelServer(faults=lambda *_: Raw(http(200, json.dumps({"choices": [choice]}).encode()))) as server:
        made = scores(server, "a", api="reward")
    assert made == ({name: [value] for name, value in numbers.items()} or {"reward": [None]})


def test_a_row_without_a_reward_is_no_reward(put: Any, tmp_path: Path) -> None:
    def odd(server: ModelServer, body: Body, answer: Body) -> Raw | None:
        if body["messages"][-1]["content"] == "two":
            answer["data"][0]["probs"] = [1.0, 2.0]
        return None

    turns = pa.array([[{"role": "user", "content": "q"}]] * 2, TAKES["messages"].type)
    table = pa.table({"sample_id": ["a", "b"], "response": ["one", "two"], "messages": turns})
    given = put(table, schema=RESPONSES.adding(TAKES["messages"]))
    with ModelServer(faults=odd) as server:
        resource = {"scorer": Resource("m", functools.partial(_scorer, server.reference), TAKES, concurrency=3)}
        with pytest.raises(DataError, match="reward-not-finite"):
            apply(Reward(), given, str(tmp_path / "none"), resources=resource)
        made = apply(Reward(), given, str(tmp_path / "one"), resources=resource, max_rejected=1)
    assert made.read()["reward"].to_pylist() == [3.0]


def _scorer(reference: str) -> HttpScorer:
    return HttpScorer(Asking.opened(Address.of(reference), Key(), Limits()), TAKES)


@pytest.mark.parametrize("number", ["1" * 400, "-" + "9" * 400], ids=["huge", "low"])
def test_numbers_that_no_float_holds_are_no_answer(number: str) -> None:
    reply = b'{"data": [{"probs": [%s]}]}' % number.encode()
    with ModelServer(faults=lambda *_: Raw(http(200, reply))) as server:
        assert scores(server, "a") == {"reward": [None]}
    listed = (
        b'{"choices": [{"prompt_logprobs": [null, {"5": {"logprob": %s}, "6": {"logprob": 0}}]}]}' % number.encode()
    )
    named = b'{"choices": [{"prompt_logprobs": [null, {"%s": {"logprob": -1}}]}]}' % (b"7" * 5000)
    for reply in (listed, named):
        with ModelServer(faults=lambda *_, reply=reply: Raw(http(200, reply))) as server:
            model = HttpTokenModel(asking(server))
            _, values = model.top_k([np.array([3, 5])], 1)
            model.close()
        assert np.isnan(values.flatten().flatten().to_numpy(zero_copy_only=False)).all()
