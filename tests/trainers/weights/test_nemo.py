"""Models of NeMo in every layout that it writes: what comes in computes what the source computes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.trainers.weights import nemo_archives as nemo
from tests.trainers.weights import nemo_oracle as oracle
from trainers.engine.checkpoint import checkpoint
from trainers.engine.megatron import parallel
from trainers.engine.weights import comparison
from trainers.engine.weights.import_hf import import_hf
from trainers.parallel import Parallel

LAYOUTS = {"one": (1, 1), "tp2": (2, 1), "pp2": (1, 2), "tp2-pp2": (2, 2)}


def imported(source: Path, out: Path) -> torch.Tensor:
    """Logits that the checkpoint made of `source` gives."""
    import_hf(str(source), str(out), say=lambda line: None)
    model = checkpoint.open_checkpoint(str(out), verify="off").model
    return comparison.ours(str(out), model, comparison.sample_ids(model), parallel.start(Parallel()))


def same(config: dict, made: oracle.Weights, ours: torch.Tensor) -> None:
    ids = torch.randint(0, oracle.IDS, (comparison.ROWS, ours.shape[1]), generator=torch.Generator().manual_seed(0))
    theirs = oracle.logits(config, made, ids)
    assert theirs.abs().max() > 1
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", nemo.CONFIGS)
def test_megatron_core_of_one_rank(tmp_path, name):
    config = nemo.CONFIGS[name]
    made = nemo.weights(config)
    source = nemo.archive(tmp_path / "m.nemo", config, nemo.rank_files(config, made))
    same(config, made, imported(source, tmp_path / "out"))


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "one"])
@pytest.mark.parametrize("name", ["llama-3.1", "nemotron-4", "mixtral", "gpt-3"])
def test_ranks_are_merged(tmp_path, name, layout):
    config = nemo.CONFIGS[name]
    made = nemo.weights(config)
    source = nemo.archive(tmp_path / "m.nemo", config, nemo.rank_files(config, nemo.local(made), *LAYOUTS[layout]))
    same(config, made, imported(source, tmp_path / "out"))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["gpt-2b-001", "llama-2", "gpt-3"])
def test_names_from_before_megatron_core(tmp_path, name, layout):
    config = nemo.CONFIGS[name]
    made = nemo.weights(config)
    files = nemo.rank_files(config, nemo.earlier(config, made), *LAYOUTS[layout])
    source = nemo.archive(tmp_path / "m.nemo", config, files, "w:gz")
    same(config, made, imported(source, tmp_path / "out"))


@pytest.mark.parametrize("name", ["llama-3.1", "mixtral", "gpt-3"])
def test_distributed_checkpoints(tmp_path, name):
    config = nemo.CONFIGS[name]
    made = nemo.weights(config)
    source = nemo.archive(tmp_path / "m.nemo", config, nemo.distributed_files(made, "model_weights/", "model."))
    same(config, made, imported(source, tmp_path / "out"))
    source = nemo.archive(tmp_path / "z.nemo", config, nemo.zarr_files(made, "model_weights/"))
    same(config, made, imported(source, tmp_path / "zarr"))


@pytest.mark.parametrize("name", nemo.CONFIGS)
def test_folders_of_nemo_2(tmp_path, name):
    config = nemo.CONFIGS[name]
    made = nemo.weights(config)
    same(config, made, imported(nemo.second_folder(tmp_path / "m", config, made), tmp_path / "out"))
