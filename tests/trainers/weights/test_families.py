"""Every family in the registry: in and out without a bit changed, and computing what transformers computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.trainers.weights import tiny
from tests.warm.command import launched
from trainers.engine.checkpoint import checkpoint
from trainers.engine.megatron import parallel
from trainers.engine.weights import comparison, registry
from trainers.engine.weights.export_hf import export
from trainers.engine.weights.import_hf import import_hf
from trainers.parallel import Parallel

pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    for name in tiny.FOLDERS:
        tiny.write(name, root / name / "source")
        import_hf(str(root / name / "source"), str(root / name / "checkpoint"), check="off", say=lambda line: None)
        export(str(root / name / "checkpoint"), str(root / name / "exported"), check="off", say=lambda line: None)
    return {name: root / name for name in tiny.FOLDERS}


@pytest.fixture(scope="module")
def cuts(folders: dict[str, Path]) -> Path:
    """All checkpoints' logits at tensor 2 and at pipeline 2, from one launch of two processes."""
    root = folders["llama"].parent
    launched(2, "tests.trainers.weights.cuts", root)
    return root


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    merged: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        merged |= load_file(file)
    return merged


def logits_of(folder: Path, name: str) -> torch.Tensor:
    model = checkpoint.open_checkpoint(str(folder / "checkpoint"), verify="off").model
    torch.manual_seed(0)
    return comparison.theirs(str(folder / name), comparison.sample_ids(model), model.head)


def test_every_family_has_a_folder_here() -> None:
    answered = {architecture for _, architecture, _ in tiny.FOLDERS.values()}
    for family in registry.FAMILIES.values():
        assert family.causal in answered, f"tests/trainers/weights/tiny.py has no folder of {family.name}"


def test_every_family_is_a_file_and_every_file_a_family() -> None:
    files = {path.stem for path in (ROOT / "trainers/engine/weights/families").glob("*.py")} - {"__init__"}
    assert files == set(registry.FAMILIES)


@pytest.mark.parametrize("name", tiny.FOLDERS)
def test_in_and_out_changes_no_bit(folders: dict[str, Path], name: str) -> None:
    before, after = tensors(folders[name] / "source"), tensors(folders[name] / "exported")
    assert before.keys() == after.keys()
    for tensor, value in before.items():
        assert value.dtype == after[tensor].dtype and torch.equal(value, after[tensor]), tensor


@pytest.mark.parametrize("name", tiny.FOLDERS)
def test_logits_are_those_of_transformers(folders: dict[str, Path], name: str) -> None:
    theirs = logits_of(folders[name], "source")
    assert torch.equal(theirs, logits_of(folders[name], "exported"))
    model = checkpoint.open_checkpoint(str(folders[name] / "checkpoint"), verify="off").model
    layout = parallel.start(Parallel())
    ours = comparison.ours(str(folders[name] / "checkpoint"), model, comparison.sample_ids(model), layout)
    difference = (ours - theirs).abs().max().item()
    assert difference <= (0.0 if name in tiny.EXACT else 1e-5), difference
    assert theirs.abs().max() > 0.1


@pytest.mark.parametrize("cut", ["tensor", "pipeline"])
@pytest.mark.parametrize("name", tiny.FOLDERS)
def test_logits_do_not_depend_on_the_cut(cuts: Path, folders: dict[str, Path], name: str, cut: str) -> None:
    ours = torch.load(cuts / name / f"{cut}.pt", weights_only=True)
    assert (ours - logits_of(folders[name], "source")).abs().max().item() <= 1e-4


@pytest.mark.parametrize("name", tiny.FOLDERS)
def test_a_config_survives_the_way_in_and_out(folders: dict[str, Path], name: str) -> None:
    import transformers

    before, after = (transformers.AutoConfig.from_pretrained(folders[name] / part) for part in ("source", "exported"))
    assert type(before) is type(after)
    differ = {key for key, value in before.to_dict().items() if after.to_dict().get(key) != value}
    differences: dict[str, Any] = {key: (before.to_dict()[key], after.to_dict().get(key)) for key in differ}
    allowed = {"eos_token_id", "bos_token_id", "pad_token_id", "n_inner", "_name_or_path", "initializer_range"}
    allowed |= {"attn_pdrop", "embd_pdrop", "resid_pdrop", "max_window_layers", "head_dim"}
    allowed |= {"tie_word_embeddings"} if name.endswith("reward") else set()
    assert differ <= allowed, differences


def test_a_tokenizer_comes_out_as_transformers_loads_it(folders: dict[str, Path]) -> None:
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folders["llama"] / "exported")
    assert tokenizer("w3 w4")["input_ids"] == [3, 4]
    assert (tokenizer.eos_token, tokenizer.eos_token_id, tokenizer.chat_template) == ("w1", 1, "{{ messages }}")
