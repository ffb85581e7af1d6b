"""Checkpoints: the same weights at every layout, whole or refused, and nothing in them is run."""

from __future__ import annotations

import dataclasses
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp

from schemas.errors import ConfigError, ConflictError, IntegrityError
from tests.trainers.networks import SMALL, network, vocabulary
from tests.trainers.resharding import steps_of, trained
from trainers.config import Parallel
from trainers.engine import checkpoint, parallel, vetting
from trainers.engine.checkpoint import load_model, load_optimizer, open_checkpoint, save
from trainers.engine.quiet import quiet

ROOT = Path(__file__).resolve().parents[2]


def here() -> parallel.Layout:
    return parallel.start(Parallel())


def weights(net: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value for name, value in net.state_dict().items() if torch.is_tensor(value)}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a distributed checkpoint, whole."""
    index = vetting.vet(str(folder))
    entries = {k: e for k, e in index.state_dict_metadata.items() if hasattr(e, "size")}
    whole = {name: torch.empty(entry.size, dtype=entry.properties.dtype) for name, entry in entries.items()}
    with quiet():
        dcp.load(whole, storage_reader=dcp.FileSystemReader(folder), no_dist=True)
    return whole


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    folder, net = str(tmp_path / "c"), network()
    manifest = save(folder, model=net, vocabulary=vocabulary(), train_state={"step": 7}, facts={"mine": "t"}, key="k")
    opened = open_checkpoint(folder)
    assert (opened.model, opened.manifest, opened.manifest.key) == (SMALL, manifest, "k")
    assert opened.train_state() == {"step": 7}
    assert opened.vocabulary() == vocabulary()
    assert opened.manifest.facts["mine"] == "t"
    assert same(weights(load_model(folder, here())), weights(net))
    assert not [name for name in os.listdir(folder) if name.startswith("_attempt")]


def test_saving_again_is_done_already_and_other_weights_conflict(tmp_path: Path) -> None:
    folder = str(tmp_path / "c")
    first = save(folder, model=network())
    assert save(folder, model=network()).digest == first.digest
    with pytest.raises(ConflictError):
        save(folder, model=network(seed=1))
    assert open_checkpoint(folder).manifest.digest == first.digest


def test_the_digest_is_of_the_weights_alone(tmp_path: Path) -> None:
    digests = [
        save(str(tmp_path / str(i)), model=network(seed), key=str(i)).facts["weights_digest"]
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
        vetting.vet(str(folder))
    assert not canary.exists()


def test_an_index_that_points_elsewhere_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    folder.mkdir()
    with quiet():
        dcp.save({"a": torch.zeros(3)}, checkpoint_id=str(folder), no_dist=True)
    index = vetting.read_index(str(folder))
    for info in index.storage_data.values():
        info.relative_path = "../" + info.relative_path
    (folder / ".metadata").write_bytes(pickle.dumps(index))
    with pytest.raises(IntegrityError, match="metadata"):
        vetting.vet(str(folder))


def test_every_layout_holds_the_same_weights(tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*torchrun, "-m", "tests.trainers.resharding", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
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
