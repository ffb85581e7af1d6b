"""Checkpoints: the same weights at every layout, whole or refused, and nothing in them is run."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp

from schemas.errors import ConfigError, ConflictError, IntegrityError, QuiverError
from tests.trainers.networks import SMALL, network, vocabulary
from tests.trainers.resharding import steps_of, trained
from tests.warm.command import launched
from trainers.engine.checkpoint import checkpoint, safe_unpickle
from trainers.engine.checkpoint.checkpoint import load_model, load_optimizer, open_checkpoint, save
from trainers.engine.megatron import parallel
from trainers.engine.megatron.quiet import quiet
from trainers.parallel import Parallel


def here() -> parallel.Layout:
    return parallel.start(Parallel())


def weights(net: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value for name, value in net.state_dict().items() if torch.is_tensor(value)}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a distributed checkpoint, whole."""
    index = safe_unpickle.vet(str(folder))
    entries = {k: e for k, e in index.state_dict_metadata.items() if hasattr(e, "size")}
    whole = {name: torch.empty(entry.size, dtype=entry.properties.dtype) for name, entry in entries.items()}
    with quiet():
        dcp.load(whole, storage_reader=dcp.FileSystemReader(folder), no_dist=True)
    return whole


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    folder, net = str(tmp_path / "c"), network()
    manifest = save(
        folder, model=net, tokenizer_files=vocabulary(), train_state={"step": 7}, facts={"mine": "t"}, task_key="k"
    )
    opened = open_checkpoint(folder)
    assert (opened.model, opened.manifest, opened.manifest.task_key) == (SMALL, manifest, "k")
    assert opened.train_state() == {"step": 7}
    assert opened.tokenizer_files() == vocabulary()
    assert opened.manifest.facts["mine"] == "t"
    assert same(weights(load_model(folder, here())), weights(net))
    assert not [name for name in os.listdir(folder) if name.startswith("_attempt")]


def test_saving_again_is_done_already_and_other_weights_conflict(tmp_path: Path) -> None:
    folder = str(tmp_path / "c")
    first = save(folder, model=network())
    assert save(folder, model=network()).content_digest == first.content_digest
    with pytest.raises(ConflictError):
        save(folder, model=network(seed=1))
    assert open_checkpoint(folder).manifest.content_digest == first.content_digest


def test_the_digest_is_of_the_weights_alone(tmp_path: Path) -> None:
    digests = [
        save(str(tmp_path / str(i)), model=network(seed), task_key=str(i)).facts["weights_digest"]
        for i, seed in enumerate((0, 0, 1))
    ]
    assert digests[0] == digests[1] != digests[2]


def test_training_goes_on_as_if_never_stopped(tmp_path: Path) -> None:
    folder = str(tmp_path / "c")
    wrapped, optimizer, _ = trained(network(), 2)
    save(folder, model=wrapped, optimizer=optimizer)
    wanted = steps_of(wrapped, optimizer, 3)
    again, fresh, _ = trained(load_model(folder, here()), 0)
    load_optimizer(folder, model=again, optimizer=fresh)
    assert steps_of(again, fresh, 3) == wanted


def test_weights_without_an_optimizer_cannot_be_resumed(tmp_path: Path) -> None:
    wrapped, optimizer, _ = trained(network(), 0)
    save(str(tmp_path / "c"), model=wrapped)
    with pytest.raises(ConfigError, match="no-optimizer-state"):
        load_optimizer(str(tmp_path / "c"), model=wrapped, optimizer=optimizer)


def test_a_policy_becomes_a_reward_model_with_a_fresh_head(tmp_path: Path) -> None:
    folder, net = str(tmp_path / "c"), network()
    save(folder, model=net)
    wanted = dataclasses.replace(SMALL, head="scalar")
    heads = [load_model(folder, here(), model=wanted, seed=seed) for seed in (3, 3, 4)]
    trunk = [name for name in weights(net) if name != "output_layer.weight"]
    assert all(torch.equal(weights(heads[0])[name], weights(net)[name]) for name in trunk)
    assert torch.equal(heads[0].output_layer.weight, heads[1].output_layer.weight)
    assert not torch.equal(heads[0].output_layer.weight, heads[2].output_layer.weight)
    with pytest.raises(ConfigError, match="hidden_size"):
        load_model(folder, here(), model=dataclasses.replace(SMALL, hidden_size=64))


def test_precision_can_change_at_loading(tmp_path: Path) -> None:
    folder = str(tmp_path / "c")
    half = load_model_of(save(folder, model=network()), folder, "bf16")
    assert {weight.dtype for weight in half.parameters()} == {torch.bfloat16}
    for name, weight in weights(half).items():
        torch.testing.assert_close(weight, weights(network())[name].bfloat16(), atol=0, rtol=0)


def load_model_of(_: Any, folder: str, precision: Any) -> torch.nn.Module:
    return load_model(folder, here(), precision=precision)


@pytest.mark.parametrize("name", ["weights/__0_0.distcp", "weights/.metadata", "weights/common.pt", "model.json"])
@pytest.mark.parametrize("harm", ["cut", "flip", "remove"])
def test_a_damaged_checkpoint_is_refused_by_name(tmp_path: Path, name: str, harm: str) -> None:
    save(str(tmp_path / "c"), model=network())
    path = tmp_path / "c" / name
    data = path.read_bytes()
    if harm == "remove":
        path.unlink()
    else:
        path.write_bytes(data[:-1] if harm == "cut" else bytes([data[0] ^ 1]) + data[1:])
    with pytest.raises(IntegrityError, match=name):
        load_model(str(tmp_path / "c"), here())


@pytest.mark.parametrize("content", [None, b"", b"{}"])
def test_a_checkpoint_without_its_manifest_is_none(tmp_path: Path, content: bytes | None) -> None:
    save(str(tmp_path / "c"), model=network())
    manifest = tmp_path / "c" / "_manifest.json"
    manifest.unlink() if content is None else manifest.write_bytes(content)
    with pytest.raises(IntegrityError):
        open_checkpoint(str(tmp_path / "c"))


class Hostile:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.canary}",)


def test_a_hostile_index_is_not_run(tmp_path: Path) -> None:
    save(str(tmp_path / "c"), model=network())
    canary = tmp_path / "canary"
    (tmp_path / "c/weights/.metadata").write_bytes(pickle.dumps(Hostile(canary)))
    opened = open_checkpoint(str(tmp_path / "c"), verify="off")
    with pytest.raises(IntegrityError, match="metadata"):
        load_model(opened, here())
    assert not canary.exists()


def test_a_hostile_loose_object_is_not_run(tmp_path: Path) -> None:
    folder, canary = tmp_path / "c", tmp_path / "canary"
    folder.mkdir()
    with quiet():
        dcp.save({"a": torch.zeros(3), "evil": Hostile(canary)}, checkpoint_id=str(folder), no_dist=True)
    with pytest.raises(IntegrityError, match="distcp"):
        safe_unpickle.vet(str(folder))
    assert not canary.exists()


def test_an_index_that_points_elsewhere_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    folder.mkdir()
    with quiet():
        dcp.save({"a": torch.zeros(3)}, checkpoint_id=str(folder), no_dist=True)
    index = safe_unpickle.read_index(str(folder))
    for info in index.storage_data.values():
        info.relative_path = "../" + info.relative_path
    (folder / ".metadata").write_bytes(pickle.dumps(index))
    with pytest.raises(IntegrityError, match="metadata"):
        safe_unpickle.vet(str(folder))


@pytest.mark.parametrize("size", [(10**4000 - 1, 3), (1 << 63, 3), (1,) * 65], ids=["4000 digits", "2^63", "65"])
def test_an_index_with_a_shape_that_no_tensor_has_is_refused_before_it_is_multiplied(
    tmp_path: Path, size: tuple[int, ...]
) -> None:
    with quiet():
        dcp.save({"a": torch.zeros(3)}, checkpoint_id=str(tmp_path), no_dist=True)
    index = safe_unpickle.read_index(str(tmp_path))
    entry = index.state_dict_metadata["a"]
    entry.size = size
    (tmp_path / ".metadata").write_bytes(pickle.dumps(index))
    with pytest.raises(IntegrityError, match="other sizes than a tensor"):
        safe_unpickle.vet(str(tmp_path))


def first(index: Any) -> tuple[Any, Any]:
    """Name and entry of the first tensor that lies in several pieces."""
    return next((name, entry) for name, entry in index.state_dict_metadata.items() if len(entry.chunks) > 1)


def resize(index: Any, *size: int) -> None:
    first(index)[1].size = torch.Size(size)


def twice(index: Any) -> None:
    entry = first(index)[1]
    entry.chunks = [entry.chunks[0]] * len(entry.chunks)


def place(index: Any, **changes: Any) -> None:
    info = next(iter(index.storage_data.values()))
    for name, value in changes.items():
        setattr(info, name, value)


FAULTS: dict[str, Any] = {
    "size below 0": lambda index: resize(index, -2, 32),
    "huge": lambda index: resize(index, 1 << 40, 1 << 20),
    "no rows": lambda index: resize(index, 10**9, 0, 5),
    "a piece lost": lambda index: first(index)[1].chunks.pop(),
    "a piece twice": twice,
    "no pieces": lambda index: first(index)[1].chunks.clear(),
    "beyond its file": lambda index: place(index, offset=1 << 50),
    "before its file": lambda index: place(index, offset=-1),
    "a length of text": lambda index: place(index, length="9"),
    "too short": lambda index: place(index, length=3),
    "no file": lambda index: place(index, relative_path="__9_9.distcp"),
    "no path": lambda index: place(index, relative_path=None),
    "unknown compression": lambda index: place(index, transform_descriptors=["brotli"]),
    "tables that are lists": lambda index: setattr(index, "state_dict_metadata", [1]),
    "an entry of text": lambda index: index.state_dict_metadata.update({first(index)[0]: "x"}),
    "no place": lambda index: index.storage_data.clear(),
    "a key of text": lambda index: index.storage_data.update(x=next(iter(index.storage_data.values()))),
    "no properties": lambda index: setattr(first(index)[1], "properties", None),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_index_that_is_not_true_is_refused(tmp_path: Path, fault: str) -> None:
    save(str(tmp_path / "c"), model=network())
    folder = tmp_path / "c" / "weights"
    index = safe_unpickle.read_index(str(folder))
    FAULTS[fault](index)
    (folder / ".metadata").write_bytes(pickle.dumps(index))
    opened = open_checkpoint(str(tmp_path / "c"), verify="off")
    with pytest.raises(IntegrityError):
        checkpoint.weights_digest(str(folder), opened.model)
    with pytest.raises(IntegrityError):
        load_model(opened, here())


def test_bytes_changed_anywhere_in_a_checkpoint_are_our_error_or_harmless(tmp_path: Path) -> None:
    save(str(tmp_path / "c"), model=network(), train_state={"step": 3})
    random, ended = np.random.default_rng(0), []
    for path in sorted(path for path in (tmp_path / "c").rglob("*") if path.is_file()):
        data = path.read_bytes()
        for _ in range(12):
            harmed = bytearray(data)
            for at in random.integers(0, len(data), random.integers(1, 4)):
                harmed[at] = random.integers(0, 256)
            cut = int(random.integers(0, len(data))) if random.random() < 0.3 else len(data)
            path.write_bytes(bytes(harmed[:cut]))
            try:
                opened = open_checkpoint(str(tmp_path / "c"), verify="off")
                opened.train_state()
                load_model(opened, here())
            except QuiverError as error:
                ended.append((error.code, len(error.render().splitlines())))
        path.write_bytes(data)
    assert len(ended) > 20 and {code for code, _ in ended} == {11} and max(lines for _, lines in ended) <= 6
    load_model(str(tmp_path / "c"), here())


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("model.json", b"{"),
        ("model.json", b"\xff"),
        ("model.json", b"[" * 100_000),
        ("model.json", b"[]"),
        ("model.json", b'{"num_layers": 1}'),
        ("train_state.json", b"[1]"),
        ("train_state.json", b"\xff"),
    ],
)
def test_a_text_file_that_is_not_what_it_was_is_refused_by_name(tmp_path: Path, name: str, text: bytes) -> None:
    save(str(tmp_path / "c"), model=network(), train_state={"step": 3})
    (tmp_path / "c" / name).write_bytes(text)
    with pytest.raises(IntegrityError, match=name):
        open_checkpoint(str(tmp_path / "c"), verify="off").train_state()


def test_a_shape_beyond_every_model_is_refused_before_anything_is_built(tmp_path: Path) -> None:
    save(str(tmp_path / "c"), model=network())
    path = tmp_path / "c/model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "num_layers": 10**9}))
    with pytest.raises(IntegrityError, match="num_layers 1000000000 is above"):
        open_checkpoint(str(tmp_path / "c"), verify="off")


def test_the_digest_does_not_depend_on_the_place(tmp_path: Path) -> None:
    net = network()
    plain, other = (save(str(tmp_path / name / "c"), model=net, train_state={"step": 1}) for name in ("a", "größe 数"))
    assert plain.content_digest == other.content_digest
    assert load_model(str(tmp_path / "größe 数/c"), here()).architecture == net.architecture


def test_every_layout_holds_the_same_weights(tmp_path: Path) -> None:
    launched(2, "tests.trainers.resharding", tmp_path)
    digests = {name: open_checkpoint(str(tmp_path / name)).weights_digest for name in os.listdir(tmp_path)}
    single = save(str(tmp_path / "single"), model=network()).facts["weights_digest"]
    assert digests["tensor-fresh"] == digests["pipeline-fresh"] == single
    assert digests["tensor"] == digests["tensor-as-pipeline"] == digests["pipeline-as-data"] != single
    for moved in ("tensor-as-pipeline", "pipeline-as-data"):  # both by the distributed optimizer, tensor by the plain
        assert same(tensors(tmp_path / moved / "optimizer"), tensors(tmp_path / "tensor/optimizer"))

    wrapped, optimizer, _ = trained(load_model(str(tmp_path / "tensor"), here()), 0)
    load_optimizer(str(tmp_path / "pipeline-as-data"), model=wrapped, optimizer=optimizer)
    assert save(str(tmp_path / "back"), model=wrapped, optimizer=optimizer).facts["weights_digest"] == digests["tensor"]
    assert same(tensors(tmp_path / "back/optimizer"), tensors(tmp_path / "tensor/optimizer"))
    plain, adam, _ = trained(network(), 2)
    assert steps_of(wrapped, optimizer, 2) == pytest.approx(steps_of(plain, adam, 2), rel=1e-5)


def test_the_checkpoint_module_names_its_parts() -> None:
    assert (checkpoint.WEIGHTS, checkpoint.OPTIMIZER, checkpoint.MODEL) == (
        "weights",
        "optimizer",
        "model.json",
    )
