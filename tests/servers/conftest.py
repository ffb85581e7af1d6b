"""A tiny Llama, as vLLM and `quiver serve` serve it, and as our own engine reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

import trainers.engine  # noqa: F401 - for its effect
from datakit.clients import ANSWERS, Sampling
from datakit.clients.http import Address, Asking, HttpGenerator, HttpTokenModel, Limits
from datakit.clients.http.address import Key
from datakit.tokenizers.tokenizer import Tokenizer
from tests import pages
from tests.servers.own_server import OwnServer
from tests.servers.vllm_server import CONTEXT, INSTALLED, VllmServer
from trainers.engine.inference.frozen import FrozenModel, open_frozen
from trainers.engine.inference.generator import Generator, open_generator
from trainers.engine.weights.import_hf import import_hf

OWN = "quiver serve"
SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32}
"""vLLM's kernels for CPUs know heads of 32, 64, 80 ... channels."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What asks vLLM is of a door of its own, and needs what that installs; what asks our own server is slow."""
    missing = pytest.mark.skipif(
        not INSTALLED.exists(), reason="no vLLM in build/vllm: make test-servers puts it there"
    )
    for item in items:
        if item.path.parent == Path(__file__).parent:
            asked = item.callspec.params.get("server") if hasattr(item, "callspec") else None
            if asked == OWN:
                item.add_marker(pytest.mark.slow)
                continue
            item.add_marker(pytest.mark.servers)
            item.add_marker(missing)


@dataclass(frozen=True)
class Own:
    """The same weights in our own engine: what draws, and what is asked about given tokens."""

    generator: Generator
    frozen: FrozenModel


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(11)
    place = tmp_path_factory.mktemp("llama") / "model"
    pages.model(place, **SIZES, initializer_range=0.2, max_position_embeddings=CONTEXT)
    return place


@pytest.fixture(scope="session")
def own(folder: Path) -> Own:
    checkpoint = str(folder.parent / "checkpoint")
    import_hf(str(folder), checkpoint, check="off", say=lambda line: None)
    return Own(open_generator(checkpoint), open_frozen(checkpoint))


@pytest.fixture(scope="session")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.of_folder(str(folder))


@pytest.fixture(scope="session")
def vllm(folder: Path) -> Iterator[VllmServer]:
    with VllmServer(folder, folder.parent / "vllm.log") as server:
        yield server


@pytest.fixture(scope="session", params=["vllm", OWN])
def server(request: pytest.FixtureRequest, folder: Path) -> Iterator[VllmServer | OwnServer]:
    """Each of the servers that the suite runs against."""
    if request.param == "vllm":
        yield request.getfixturevalue("vllm")
        return
    with OwnServer(folder, folder.parent / "own") as running:
        yield running


@pytest.fixture(scope="session")
def asked(server: VllmServer | OwnServer, tokenizer: Tokenizer) -> Callable[..., list[dict[str, Any]]]:
    """What our client makes of the server's answers, row by row."""
    return asking(server.reference, tokenizer)


def asking(reference: str, tokenizer: Tokenizer) -> Callable[..., list[dict[str, Any]]]:
    """The same of the server at that reference."""

    def ask(rows: pa.Table, sampling: Sampling, seeds: np.ndarray, **how: Any) -> list[dict[str, Any]]:
        limits = how.pop("limits", Limits())
        how = {"api": "completions", "tokenizer": tokenizer, **how}
        generator = HttpGenerator(Asking.opened(Address.of(reference), Key(), limits), **how)
        try:
            return ANSWERS.conform(generator.generate(rows, sampling, seeds)).to_pylist()
        finally:
            generator.close()

    return ask


@pytest.fixture(scope="session")
def token_model(server: VllmServer | OwnServer) -> Iterator[HttpTokenModel]:
    model = HttpTokenModel(Asking.opened(Address.of(server.reference), Key(), Limits()))
    yield model
    model.close()
