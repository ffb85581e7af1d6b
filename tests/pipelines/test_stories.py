"""A real Llama folder in, an iteration with one's own reward, a Hugging Face folder out (the example `stories`)."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from commands import ROOT, luigi

from schemas.dataset import Dataset

pytestmark = pytest.mark.slow
EXAMPLE = ROOT / "docs" / "examples" / "stories"


@pytest.fixture(scope="module")
def folder(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example's folder with the model in it, after one small iteration."""
    model = shared_data / "model-stories260k" / "hf"
    if not model.is_dir():
        pytest.skip("the model of the example is not here")
    root = tmp_path_factory.mktemp("stories")
    for path in EXAMPLE.iterdir():
        shutil.copy(path, root)
    shutil.copytree(model, root / "stories260k")
    done = luigi(root, "RestIteration", *_SMALL, module="pipelines", timeout=600)
    assert done.returncode == 0, done.stderr
    return root


_SMALL = ("--prompts-per-iteration", "24", "--samples-per-prompt", "4", "--own-max-new-tokens", "48")
_SMALL += ("--thresholds", "[0.5]")


def test_the_model_is_imported_with_its_tokenizer_and_the_better_half_is_learnt(folder: Path) -> None:
    made = {path.parent.name.rsplit("-", 1)[0]: path.parent for path in folder.rglob("_manifest.json")}
    samples, kept = (Dataset.open(str(made[name])) for name in ("rewards", "kept"))
    assert samples.num_rows == 96 and 24 <= kept.num_rows <= 60
    assert kept.stats["columns"]["reward"]["mean"] > samples.stats["columns"]["reward"]["mean"]
    rows = samples.read(columns=["prompt", "response", "reward", "prompt_ids"]).to_pylist()
    assert all(row["prompt"].startswith("<s>") and row["prompt_ids"][0] == 1 for row in rows)
    assert len({row["response"] for row in rows}) > 60 and any("the" in row["response"].split() for row in rows)


def test_the_same_command_again_does_nothing(folder: Path) -> None:
    again = luigi(folder, "RestIteration", *_SMALL, module="pipelines")
    assert again.returncode == 0 and "nothing to do" in again.stderr + again.stdout


def test_the_policy_goes_out_to_transformers(folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    policy = next(path.parent for path in folder.rglob("policy-*/weights"))
    done = luigi(folder, "ExportModel", "--checkpoint", str(policy), module="pipelines")
    assert done.returncode == 0, done.stderr
    place = done.stdout.split()[-1]
    model = transformers.AutoModelForCausalLM.from_pretrained(place)
    tokenizer = transformers.AutoTokenizer.from_pretrained(place)
    ids = tokenizer("Once upon a time", return_tensors="pt")
    text = tokenizer.decode(model.generate(**ids, max_new_tokens=30, do_sample=False)[0], skip_special_tokens=True)
    assert type(model).__name__ == "LlamaForCausalLM" and text.startswith("Once upon a time, there was")
