"""An export in another type than the checkpoint's is compared too: as transformers loads it, against weights rounded
alike, within fp32's tolerance.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from schemas.errors import DataError
from tests.fidelity import folders
from trainers.engine.weights import export_hf
from trainers.engine.weights.import_hf import import_hf

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2": ("Qwen2", {"use_sliding_window": True, "sliding_window": 70, "max_window_layers": 0}),
    "gpt2": ("GPT2", {}),
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("rounded")
    for name, (kind, settings) in KINDS.items():
        folders.write(root / name, kind, settings)
        import_hf(str(root / name), str(root / f"{name}-checkpoint"), check="off", say=lambda line: None)
    return {name: root / f"{name}-checkpoint" for name in KINDS}


@torch.no_grad()
def logits(folder: Path, dtype: torch.dtype) -> torch.Tensor:
    network = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    ids = torch.randint(0, 83, (2, 48), generator=torch.Generator().manual_seed(3))
    values: torch.Tensor = network(ids).logits.float()
    return values


@pytest.mark.parametrize(("name", "dtype"), [("qwen2", "bf16"), pytest.param("gpt2", "fp16", marks=pytest.mark.slow)])
def test_the_folder_is_compared_in_its_own_type(
    checkpoints: dict[str, Path], tmp_path: Path, name: str, dtype: export_hf.Dtype
) -> None:
    lines: list[str] = []
    made = export_hf.export(str(checkpoints[name]), str(tmp_path / "out"), dtype=dtype, say=lines.append)
    check = made.facts["check"]
    assert check["logits"] == "equal" and check.get("beyond") != "not compared"
    kind = export_hf.DTYPES[dtype]
    assert any(f"(weights in {str(kind).removeprefix('torch.')})" in line for line in lines), lines
    figures = made.runtime_info["check"]
    assert figures["difference"] <= 1e-4 * max(1.0, figures["greatest"])
    # By transformers alone: the type's own rounding is far above what the check allows, and it is all there is.
    whole = logits(checkpoints[name].with_name(name), torch.float32)
    narrow = logits(tmp_path / "out", torch.float32)
    assert 1e-4 < (narrow - whole).abs().max() / whole.abs().max() < 0.1
    computed = logits(tmp_path / "out", kind)
    assert (computed - narrow).abs().max() < 64 * torch.finfo(kind).eps * narrow.abs().max()


def test_a_tensor_that_is_off_by_a_step_of_bf16_is_seen(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault no larger than the type's rounding: a tolerance of bf16 would let it pass."""
    write = export_hf._write_weights

    def damaged(plan: export_hf.Plan, here: str, most: int) -> int:
        files = write(plan, here, most)
        path = Path(here) / "model.safetensors"
        tensors = load_file(path)
        norm = "model.norm.weight"
        tensors[norm] = tensors[norm] * (1 + 2**-7)
        save_file(tensors, path, metadata={"format": "pt"})
        return files

    monkeypatch.setattr(export_hf, "_write_weights", damaged)
    with pytest.raises(DataError, match="logits-differ"):
        export_hf.export(str(checkpoints["qwen2"]), str(tmp_path / "out"), dtype="bf16", say=lambda line: None)
    assert not (tmp_path / "out" / "config.json").exists()
