"""A tiny Llama, as vLLM serves it and as our own engine reads it."""

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
from tests.servers.vllm_server import INSTALLED, VllmServer
from trainers.engine.inference.frozen import FrozenModel, open_frozen
from trainers.engine.inference.generator import Generator, open_generator
from trainers.engine.weights.import_hf import import_hf

SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32}
"""vLLM's kernels for CPUs know heads of 32, 64, 80 ... channels."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of this folder is of one door, and needs what it installs."""
    missing = pytest.mark.skipif(
        not INSTALLED.exists(), reason="no vLLM in build/vllm: make test-servers puts it there"
    )
    for item in items:
        if item.path.parent == Path(__file__).parent:
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
    pages.model(place, **SIZES, initializer_range=0.2)
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


@pytest.fixture(scope="session")
def asked(vllm: VllmServer, tokenizer: Tokenizer) -> Callable[..., list[dict[str, Any]]]:
    """What our client makes of the server's answers, row by row."""

    def ask(rows: pa.Table, sampling: Sampling, seeds: np.ndarray, **how: Any) -> list[dict[str, Any]]:
        limits = how.pop("limits", Limits())
        how = {"api": "completions", "tokenizer": tokenizer, **how}
        generator = HttpGenerator(Asking.opened(Address.of(vllm.reference), Key(), limits), **how)
        try:
            return ANSWERS.conform(generator.generate(rows, sampling, seeds)).to_pylist()
        finally:
            generator.close()

    return ask


@pytest.fixture(scope="session")
def token_model(vllm: VllmServer) -> Iterator[HttpTokenModel]:
    model = HttpTokenModel(Asking.opened(Address.of(vllm.reference), Key(), Limits()))
    yield model
    model.close()
