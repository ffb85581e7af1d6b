"""A server of models on the loopback interface, for tests: what it answers is a function of what it is asked.

It speaks completions, chat, token ids, scores and rewards, counts every request by what it asks, answers after
`latency`, turns away what is more than `limit` at a time, and does to chosen requests whatever `faults` says.
`python -m tests.model_server` runs it in a process of its own and prints its port.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import hashlib
import json
import math
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Body = dict[str, Any]
Fault = Callable[["ModelServer", Body, Body], "Raw | None"]
"""What happens to a request (its body) and the answer that it would get; None: that answer, as it was left."""

VOCABULARY = 29


@dataclass
class Raw:
    """Bytes on the wire: sent after `before` seconds; then the connection is `reset`, held for `after` seconds, or
    kept.
    """

    data: bytes = b""
    before: float = 0.0
    after: float = 0.0
    reset: bool = False
    pieces: Sequence[tuple[float, bytes]] = ()
    """What is sent behind the data, each after so many seconds."""


def events(answer: Body, *, chat: bool) -> list[bytes]:
    """An answer as server-sent events, each choice in pieces of three letters, or of a token."""
    head = {name: answer[name] for name in answer if name not in ("choices", "usage")}
    made = []
    for choice in answer["choices"]:
        text = choice["message"]["content"] if chat else choice["text"]
        ids, logprobs = choice.get("token_ids"), (choice.get("logprobs") or {}).get("token_logprobs")
        count = len(ids) if ids is not None else max(1, -(-len(text) // 3))
        for at in range(count):
            part = text[at * 3 : at * 3 + 3] if at < count - 1 else text[at * 3 :]
            piece: Body = {"index": choice["index"], "finish_reason": None}
            piece |= {"delta": {"content": part}} if chat else {"text": part}
            if ids is not None and logprobs is not None:
                piece |= {"token_ids": ids[at : at + 1], "logprobs": {"token_logprobs": logprobs[at : at + 1]}}
            made.append({**head, "choices": [piece]})
        end = {"index": choice["index"], "finish_reason": choice["finish_reason"]}
        made.append({**head, "choices": [{**end, **({"delta": {}} if chat else {"text": ""})}]})
    made.append({**head, "choices": [], "usage": answer["usage"]})
    return [b"data: " + json.dumps(one).encode() + b"\n\n" for one in made] + [b"data: [DONE]\n\n"]


STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


def http(status: int, body: bytes, headers: Mapping[str, str] | None = None, length: int | None = None) -> bytes:
    """An answer of HTTP/1.1; `length` where it is said to be longer or shorter than it is."""
    given = {"Content-Type": "application/json", "Content-Length": str(len(body) if length is None else length)}
    lines = [f"HTTP/1.1 {status} Status", *(f"{name}: {value}" for name, value in {**given, **(headers or {})}.items())]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def zipped(body: bytes) -> bytes:
    """A packed answer."""
    return http(200, gzip.compress(body), {"Content-Encoding": "gzip"})


@dataclass
class ModelServer:
    """The server; a context manager. `keys`: what it asks for as a key, where it does."""

    model: str = "m"
    latency: float = 0.0
    limit: int = 0
    retry_after: str = ""
    key: str = ""
    faults: Fault | None = None
    port: int = 0
    paths: Counter[str] = field(default_factory=Counter)
    asked: Counter[str] = field(default_factory=Counter)
    bodies: list[Body] = field(default_factory=list)
    remembers: bool = True
    under_way: int = 0
    most_under_way: int = 0
    turned_away: int = 0
    connections: int = 0
    busy_seconds: float = 0.0
    _since: float = 0.0

    def __enter__(self) -> ModelServer:
        self.loop = asyncio.new_event_loop()
        started = threading.Event()

        def run() -> None:
            asyncio.set_event_loop(self.loop)
            self.loop.run_until_complete(self._listen())
            started.set()
            self.loop.run_forever()

        self._thread = threading.Thread(target=run, name="model-server", daemon=True)
        self._thread.start()
        assert started.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def reference(self) -> str:
        return f"{self.base}#{self.model}"

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _end(self) -> None:
        self._server.close()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while await self._exchanged(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _exchanged(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = head[0].split(" ")
        headers = {line.partition(":")[0].lower(): line.partition(":")[2].strip() for line in head[1:] if line}
        data = await reader.readexactly(int(headers.get("content-length", 0)))
        raw = await self._raw(method, path, headers, json.loads(data) if data else {})
        if raw.before:
            await asyncio.sleep(raw.before)
        writer.write(raw.data)
        await writer.drain()
        for wait, piece in raw.pieces:
            await asyncio.sleep(wait)
            writer.write(piece)
            await writer.drain()
        if raw.data.startswith(STREAM_HEAD):
            return False
        if raw.after:
            await asyncio.sleep(raw.after)
        if raw.reset:
            writer.transport.abort()
        return not raw.reset

    async def _raw(self, method: str, path: str, headers: Mapping[str, str], body: Body) -> Raw:
        if self.key and headers.get("authorization") != f"Bearer {self.key}":
            wrong = {"error": {"message": f"no key, or a wrong one: {headers.get('authorization')}"}}
            return Raw(http(401, json.dumps(wrong).encode()))
        self.paths[path] += 1
        if method == "GET":
            return Raw(http(200, json.dumps(self.models()).encode())) if path == "/v1/models" else Raw(http(404, b"{}"))
        if self.limit and self.under_way >= self.limit:
            self.turned_away += 1
            after = {"Retry-After": self.retry_after} if self.retry_after else {}
            return Raw(http(429, b'{"error": {"message": "too many"}}', after))
        self._moved(1)
        try:
            if self.remembers:
                self.bodies.append(body)
            self.asked[digest(path, body)] += 1
            if self.latency:
                await asyncio.sleep(self.latency)
            reply = self.answer(path, body)
            if reply is None:
                return Raw(http(404, b'{"detail": "Not Found"}'))
            raw = self.faults(self, body, reply) if self.faults is not None else None
            if raw is None and body.get("stream"):
                raw = Raw(STREAM_HEAD, pieces=[(0, one) for one in events(reply, chat="chat" in path)])
            return raw or Raw(http(200, json.dumps(reply).encode()))
        finally:
            self._moved(-1)

    def _moved(self, by: int) -> None:
        now = time.monotonic()
        self.busy_seconds += self.under_way * (now - (self._since or now))
        self._since, self.under_way = now, self.under_way + by
        self.most_under_way = max(self.most_under_way, self.under_way)

    def models(self) -> Body:
        return {"object": "list", "data": [{"id": self.model, "object": "model", "max_model_len": 4096}]}

    def answer(self, path: str, body: Body) -> Body | None:
        """What is said to a request that nothing goes wrong with."""
        if path == "/v1/chat/completions":
            text = body["messages"][-1]["content"]
            made = [{"message": {"content": f"{drawn(text, seed)} {text}"}} for seed in seeds(body)]
        elif path == "/v1/completions" and body.get("echo"):
            made = [{"text": "", "logprobs": {"token_logprobs": [None, *map(thought, body["prompt"][1:])]}}]
        elif path == "/v1/completions" and body.get("prompt_logprobs"):
            known = [None, *(likeliest(one, body["prompt_logprobs"]) for one in body["prompt"][1:])]
            made = [{"text": "", "prompt_logprobs": known}]
        elif path in ("/classify", "/pooling"):
            text = body["messages"][-1]["content"]
            number = length(text) if body.get("use_activation") is False else squashed(length(text))
            name, value = ("probs", [number]) if path == "/classify" else ("data", [[0.0], [number]])
            return {"model": self.model, "data": [{"index": 0, name: value}]}
        elif path == "/v1/completions" and isinstance(body["prompt"], str):
            made = [{"text": f"{drawn(body['prompt'], seed)}"} for seed in seeds(body)]
        elif path == "/v1/completions":
            made = [
                {"text": named(ids), "token_ids": ids, "logprobs": {"token_logprobs": [*map(thought, ids)]}}
                for ids in (answer_ids(body["prompt"], seed, body["max_tokens"]) for seed in seeds(body))
            ]
        elif path == "/inference/v1/generate":
            params = body["sampling_params"]
            answers = [answer_ids(body["token_ids"], seed, params["max_tokens"]) for seed in seeds(params)]
            made = [
                {"token_ids": ids, "logprobs": {"content": [{"token_id": one, "logprob": thought(one)} for one in ids]}}
                for ids in answers
            ]
        else:
            return None
        choices = [{"index": index, "finish_reason": "stop", **one} for index, one in enumerate(made)]
        usage = {"prompt_tokens": 3, "completion_tokens": 5 * len(choices)}
        return {"model": self.model, "choices": choices, "usage": usage}


def seeds(body: Body) -> list[int]:
    """The seeds of the answers to a request."""
    return [body.get("seed", 0) + index for index in range(body.get("n", 1))]


def answer_ids(prompt: Sequence[int], seed: int, most: int) -> list[int]:
    """The tokens of an answer, at most six."""
    return [drawn([*prompt], seed + place) % VOCABULARY for place in range(min(most, 6))]


def thought(token: int | None) -> float:
    """The log-probability of a token."""
    return -(token or 0) / 64


def likeliest(token: int, count: int) -> Body:
    """What stands at a token whose likeliest ids are its neighbours, as vLLM writes it."""
    return {str(token + place): {"logprob": -place / 8, "rank": place + 1} for place in reversed(range(count))}


def length(text: str) -> float:
    return float(len(text))


def squashed(number: float) -> float:
    """What vLLM makes of a head's one number unless it is asked not to."""
    return 1 / (1 + math.exp(-number))


def named(ids: Sequence[int]) -> str:
    return " ".join(map(str, ids))


def drawn(what: object, seed: int) -> int:
    """A number below 10,000 that is a function of the two."""
    return int.from_bytes(hashlib.sha256(f"{what}|{seed}".encode()).digest()[:4], "big") % 10_000


def digest(path: str, body: Body) -> str:
    return hashlib.sha256(f"{path} {json.dumps(body, sort_keys=True)}".encode()).hexdigest()


def main() -> None:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--limit", type=int, default=0)
    parser.add_argument("--port", type=int, default=0)
    given = parser.parse_args()
    with ModelServer(latency=given.latency, limit=given.limit, port=given.port, remembers=False) as server:
        print(server.port, flush=True)
        for _ in sys.stdin:  # each line is a question: how much has been asked?
            print(json.dumps({"asked": server.asked.total(), "distinct": len(server.asked)}), flush=True)


if __name__ == "__main__":
    main()
