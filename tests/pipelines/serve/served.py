"""A tiny policy and a tiny reward model in memory, and a server of them: in a thread, or as an application alone."""

from __future__ import annotations

import asyncio
import functools
import socket
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, pre_tokenizers

from datakit.template import Rendering
from datakit.templating.named import TEMPLATES
from datakit.tokenizers.tokenizer import Tokenizer
from pipelines.serve import listen
from pipelines.serve.answer_queue import AnswerQueue
from pipelines.serve.app import Access, App
from pipelines.serve.listen import Settings
from pipelines.serve.metrics import Metrics
from pipelines.serve.models import Served
from pipelines.serve.texts import Texts
from tests.trainers.networks import louder, network
from tests.trainers.sampling import Sampling
from trainers.engine.inference.continuous import ContinuousDecoder
from trainers.engine.inference.decoding_thread import DecodingThread
from trainers.engine.inference.frozen import FrozenModel
from trainers.engine.inference.generator import Generator
from trainers.engine.megatron import parallel

TOKEN = "planted-token-0123456789"
POSITIONS = 256
END = 1


def tokenizer() -> Tokenizer:
    """Every byte a token, with ChatML's marks as control tokens."""
    letters = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()), 3)}
    inner = Library(models.BPE(vocab={"<|im_start|>": 0, "<|im_end|>": 1, "<pad>": 2, **letters}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(["<|im_start|>", "<|im_end|>", "<pad>"])
    return Tokenizer("letters", inner.to_str(), TEMPLATES["chatml"], None, "<|im_end|>", "<pad>")


def policy(ends: bool = True, positions: int = POSITIONS) -> Served:
    """A policy called `m`, random; without `ends` nothing ends its answers. Other tests of this process may have left
    the groups: they are there again.
    """
    parallel.start()
    return _policy(ends, positions)


@functools.cache
def _policy(ends: bool, positions: int) -> Served:
    words, net = tokenizer(), louder(network(vocab_size=259, max_sequence_length=positions), 3.0).eval()
    generator = Generator(net, Library.from_str(words.tokenizer_json), [END] if ends else [])
    return Served("m", FrozenModel(net), Texts(words, Rendering()), generator, positions=positions, weights_digest="d0")


def reward() -> Served:
    """A reward model called `r`, with two numbers."""
    parallel.start()
    return _reward()


@functools.cache
def _reward() -> Served:
    net = network(1, vocab_size=259, max_sequence_length=POSITIONS, head="scalar", head_size=2).eval()
    outputs = ("help", "harm")
    return Served("r", FrozenModel(net), Texts(tokenizer(), Rendering()), outputs=outputs, positions=POSITIONS)


def in_process(
    prompt: Sequence[int], seed: int, most: int, stop: tuple[str, ...] = (), served: Served | None = None, **how: Any
) -> dict[str, Any]:
    """What the sampler draws for one prompt and seed."""
    generator = (served or policy()).generator
    assert generator is not None
    rows = pa.table({"prompt_ids": pa.array([[*prompt]], pa.list_(pa.int32()))})
    sampling = Sampling(max_new_tokens=most, stop=stop, **how)
    return generator.generate(rows, sampling, np.array([seed], np.uint64)).to_pylist()[0]


@asynccontextmanager
async def application(
    policy: Served | None, reward: Served | None = None, *, slots: int = 8, queue: int = 256, **access: Any
) -> AsyncIterator[tuple[httpx2.AsyncClient, AnswerQueue]]:
    """A client of the application, without a port, and its answer_queue."""
    answer_queue, faults = AnswerQueue(queue, Metrics()), []
    digest = policy.weights_digest if policy else ""
    decoder = ContinuousDecoder(policy.generator, slots=slots, weights=digest) if policy and policy.generator else None
    named = {one.name: one.network for one in (policy, reward) if one}
    with DecodingThread(decoder, named, deliver=answer_queue.deliver, report=faults.append, threads=1) as thread:
        answer_queue.thread = thread
        app = App(answer_queue, policy, reward, Access(**{"token": TOKEN, **access}), faults.append).asgi()
        async with httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app), base_url="http://127.0.0.1:1", timeout=60,
            headers={"Authorization": f"Bearer {TOKEN}"},
        ) as client:  # fmt: skip
            yield client, answer_queue
    assert not faults, faults


class Running:
    """A server on a free port of the loopback interface, in a thread; a context manager."""

    def __init__(self, policy: Served | None, reward: Served | None = None, **settings: Any) -> None:
        self.settings = Settings(port=0, token=TOKEN, threads=1, **settings)
        self.models = policy, reward
        self._started = threading.Event()

    def __enter__(self) -> Running:
        self._listener: socket.socket = listen.bound(self.settings)
        self._listener.listen(1024)
        self.port = self._listener.getsockname()[1]

        def run() -> None:
            asyncio.run(listen.serve(self.settings, self._listener, *self.models, self._has_started))

        self._thread = threading.Thread(target=run, name="serving", daemon=True)
        self._thread.start()
        assert self._started.wait(30)
        return self

    def _has_started(self, server: Any) -> None:
        self.server = server
        self._started.set()

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self._thread.join(30)
        assert not self._thread.is_alive()

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"
