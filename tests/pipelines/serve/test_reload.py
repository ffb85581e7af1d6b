"""Other weights without a start: what came before ends on the old ones, later requests have the new; refusals."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from pipelines.backends.http import Http
from pipelines.graph.backend import model_at
from pipelines.graph.plan import Plan
from pipelines.serve import reloading
from pipelines.serve.answer_queue import AnswerQueue
from pipelines.serve.fields import RequestError
from pipelines.serve.models import Served
from pipelines.serve.reloading import Reload
from schemas.errors import IntegrityError
from tests.pages import model
from tests.pipelines.serve.served import POSITIONS, application, in_process, policy, reward
from tests.pipelines.serve.test_command import Process, ask
from tests.trainers.networks import louder, network
from trainers.engine.inference.frozen import FrozenModel
from trainers.engine.inference.generator import Generator
from trainers.engine.megatron import parallel

IDS = [5, 60, 61, 7]
COMPLETIONS = "/v1/completions"


@pytest.fixture
def other() -> Served:
    """A policy with other weights; its answers have no end."""
    parallel.start()
    before = policy(ends=False)
    assert before.generator is not None
    net = louder(network(5, vocab_size=259, max_sequence_length=POSITIONS), 3.0).eval()
    generator = Generator(net, before.generator.tokenizer, [])
    return replace(before, network=FrozenModel(net), generator=generator, weights_digest="d1" * 32)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "quiver-data/run/policy").mkdir(parents=True)
    return tmp_path / "quiver-data"


def asked(most: int, seed: int, **more: Any) -> dict[str, Any]:
    return {"prompt": IDS, "max_tokens": most, "seed": seed, "return_token_ids": True, **more}


async def under_way(answer_queue: AnswerQueue, count: int) -> None:
    while answer_queue.thread.running < count:
        await asyncio.sleep(0.002)


def run(work: Callable[[httpx2.AsyncClient, AnswerQueue], Awaitable[None]], *models: Served, **how: Any) -> None:
    async def main() -> None:
        async with application(*models, **how) as (client, answer_queue):
            await work(client, answer_queue)

    asyncio.run(main())


def test_requests_end_on_the_weights_that_they_came_to(
    root: Path, other: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Reload, "replacing", lambda self, served: other)
    before = policy(ends=False)

    async def work(client: httpx2.AsyncClient, answer_queue: AnswerQueue) -> None:
        early = [asyncio.ensure_future(client.post(COMPLETIONS, json=asked(60, seed, n=2))) for seed in (1, 7, 13)]
        await under_way(answer_queue, 4)  # of six, two wait for a place
        change = asyncio.ensure_future(client.post("/v1/reload", json={"checkpoint": "run/policy"}))
        while answer_queue.thread._change is None:
            await asyncio.sleep(0.002)
        again = await client.post("/v1/reload", json={"checkpoint": "run/policy"})
        assert again.status_code == 409 and again.json()["error"]["code"] == "reloading"
        late = [asyncio.ensure_future(client.post(COMPLETIONS, json=asked(20, seed))) for seed in (1, 7)]
        done = await change
        assert done.json() == {
            "id": "m", "object": "model", "weights_digest": "d1" * 32, "previous_weights_digest": "d0",
        }  # fmt: skip
        for seed, reply in zip((1, 7, 13), await asyncio.gather(*early), strict=True):
            expected = [in_process(IDS, seed + at, 60, served=before)["response_ids"] for at in range(2)]
            assert [choice["token_ids"] for choice in reply.json()["choices"]] == expected
            assert reply.json()["system_fingerprint"] == "d0"
        for seed, reply in zip((1, 7), await asyncio.gather(*late), strict=True):
            expected = [in_process(IDS, seed, 20, served=other)["response_ids"]]
            assert [choice["token_ids"] for choice in reply.json()["choices"]] == expected
            assert reply.json()["system_fingerprint"] == ("d1" * 32)[:16]
        listed = (await client.get("/v1/models")).json()["data"]
        assert [one["weights_digest"] for one in listed] == ["d1" * 32]
        scored = await client.post(COMPLETIONS, json={"prompt": IDS, "max_tokens": 0, "echo": True, "logprobs": 0})
        own = other.network.logprobs([np.array(IDS)]).to_pylist()[0]
        assert scored.json()["choices"][0]["logprobs"]["token_logprobs"][1:] == pytest.approx(own[1:], abs=2e-5)

    run(work, before, slots=4, root=str(root))


def test_what_cannot_take_the_place_leaves_the_weights_that_are_there(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(client: httpx2.AsyncClient, answer_queue: AnswerQueue) -> None:
        first = await client.post("/v1/reload", json={"checkpoint": "run/policy"})
        assert first.status_code == 400 and "not a complete checkpoint" in first.json()["error"]["message"]

        def alike(served: Served, folder: str) -> None:
            raise RequestError("the checkpoint has another shape: start a server for it", status=409)

        monkeypatch.setattr(reloading, "_require_alike", alike)
        second = await client.post("/v1/reload", json={"checkpoint": str(root / "run/policy"), "model": "r"})
        assert second.status_code == 409 and "another shape" in second.json()["error"]["message"]
        reply = (await client.post(COMPLETIONS, json=asked(8, 3))).json()
        assert reply["choices"][0]["token_ids"] == in_process(IDS, 3, 8)["response_ids"]
        unknown = await client.post("/v1/reload", json={"checkpoint": "run/policy", "model": "x"})
        assert unknown.status_code == 404

    run(work, policy(), reward(), root=str(root))


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ([], 400), ({}, 400), ({"checkpoint": 3}, 400), ({"checkpoint": ""}, 400), ({"checkpoint": "a\0b"}, 400),
        ({"checkpoint": "run/policy", "root": "/"}, 400), ({"checkpoint": "run/policy", "model": 3}, 400),
        ({"checkpoint": "x" * 5000}, 400), ({"checkpoint": ".."}, 403), ({"checkpoint": "."}, 403),
        ({"checkpoint": "/etc"}, 403), ({"checkpoint": "../quiver-data-2/x"}, 403), ({"checkpoint": "run/link"}, 403),
        ({"checkpoint": "run/../../x"}, 403),
    ],
)  # fmt: skip
def test_only_places_below_the_workspace_are_taken(body: Any, status: int, root: Path, tmp_path: Path) -> None:
    (tmp_path / "quiver-data-2/x").mkdir(parents=True)
    (root / "run/link").symlink_to(tmp_path / "quiver-data-2/x")
    with pytest.raises(RequestError) as fault:
        Reload.of(body, str(root))
    assert fault.value.status == status
    with pytest.raises(RequestError) as fault:
        Reload.of({"checkpoint": "run/policy"}, "s3://bucket/root")
    assert fault.value.status == 403
    for place in ("run/policy", str(root / "run/policy"), "run/./policy/"):
        assert Reload.of({"checkpoint": place}, str(root)).folder == os.path.realpath(root / "run/policy")


def test_a_server_without_a_token_takes_none_and_one_that_ends_takes_none(root: Path) -> None:
    async def open_to_all(client: httpx2.AsyncClient, answer_queue: AnswerQueue) -> None:
        reply = await client.post("/v1/reload", json={"checkpoint": "run/policy"})
        assert reply.status_code == 403 and "without a token" in reply.json()["error"]["message"]

    run(open_to_all, policy(), token="", root=str(root))

    async def ending(client: httpx2.AsyncClient, answer_queue: AnswerQueue) -> None:
        client.headers["Authorization"] = "Bearer wrong"
        assert (await client.post("/v1/reload", json={"checkpoint": "run/policy"})).status_code == 401
        del client.headers["Authorization"]
        assert (await client.post("/v1/reload", json={"checkpoint": "run/policy"})).status_code == 401

    run(ending, policy(), root=str(root))


def test_a_change_that_waits_when_the_server_ends_is_an_error(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reload, "replacing", lambda self, served: served)

    async def work(client: httpx2.AsyncClient, answer_queue: AnswerQueue) -> None:
        early = asyncio.ensure_future(client.post(COMPLETIONS, json=asked(200, 1)))
        await under_way(answer_queue, 1)
        change = asyncio.ensure_future(client.post("/v1/reload", json={"checkpoint": "run/policy"}))
        while answer_queue.thread._change is None:
            await asyncio.sleep(0.002)
        late = asyncio.ensure_future(client.post(COMPLETIONS, json=asked(5, 2)))
        while not answer_queue.thread.waiting:
            await asyncio.sleep(0.002)
        await answer_queue.end(0.0)
        assert [one.status_code for one in await asyncio.gather(early, change, late)] == [503] * 3

    run(work, policy(ends=False), root=str(root))


@pytest.mark.slow
def test_weights_of_another_checkpoint_are_served_and_a_client_that_knew_the_old_ones_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pipelines

    root, places = tmp_path / "quiver-data", {}
    for name, sizes in (("my-model", {}), ("next", {}), ("wider", {"hidden_size": 64})):
        model(tmp_path / name, **sizes)
        made = pipelines.run("ImportModel", folder=str(tmp_path / name), quiver_root=str(root), name=name)
        [places[name]] = made.checkpoints.values()
    running = Process(tmp_path, ("./my-model", "--port", "0", "--slots", "4"))
    address = running.address()
    token = (root / "_serve" / "token").read_text().strip()
    monkeypatch.setenv("T", token)
    client = model_at(Plan(str(root)), f"{address}/v1#my-model,key=T,determinism=exact", "generator")
    Http().health(client)
    body = {"prompt": [5, 6], "max_tokens": 20, "temperature": 0, "return_token_ids": True}
    before, [listed] = ask(address, token, COMPLETIONS, body), ask(address, token)["data"]
    assert before["system_fingerprint"] == listed["weights_digest"][:16]
    with pytest.raises(Exception, match="409"):
        ask(address, token, "/v1/reload", {"checkpoint": places["wider"]})
    assert ask(address, token)["data"] == [listed]
    done = ask(address, token, "/v1/reload", {"checkpoint": os.path.relpath(places["next"], root)})
    assert done["previous_weights_digest"] == listed["weights_digest"] != done["weights_digest"]
    assert ask(address, token)["data"][0]["weights_digest"] == done["weights_digest"]
    after = ask(address, token, COMPLETIONS, body)
    assert after["system_fingerprint"] == done["weights_digest"][:16]
    assert after["choices"][0]["token_ids"] != before["choices"][0]["token_ids"]
    with pytest.raises(IntegrityError, match="otherwise than when it was first asked") as fault:
        Http().health(client)
    assert fault.value.code == 11
    ask(address, token, "/v1/reload", {"checkpoint": places["my-model"]})
    assert ask(address, token, COMPLETIONS, body)["choices"] == before["choices"]
    Http().health(client)
    assert running.end(15) == 75
    assert "Traceback" not in running.err.read_text() and json.dumps(token) not in running.err.read_text()
