"""What PEFT trains besides adapters of linears: each weight that comes of it, against arithmetic in float64."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from schemas.errors import ConfigError, DataError
from tests.trainers.weights import peft_folders, tiny
from trainers.adapter_folder import read_adapters
from trainers.engine.weights.adapted_folder import AdaptedFolder
from trainers.engine.weights.import_hf import import_hf

pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")

EMBEDDING, HEAD = "model.embed_tokens", "lm_head"
DELTA = f"{EMBEDDING}.token_adapter.trainable_tokens_delta"
QUERY = "model.layers.0.self_attn.q_proj"
Q = {QUERY: (64, 64)}


def written(tmp_path: Path, family: str, tensors: dict[str, torch.Tensor], shapes: Any = (), **settings: Any) -> Path:
    """A folder of adapters with `tensors` on a tiny model; the folder of that one."""
    base = tiny.write(family, tmp_path / "base")
    peft_folders.write(tmp_path / "lora", str(base), dict(shapes), **settings)
    peft_folders.also(tmp_path / "lora", tensors)
    return base


def adapted(tmp_path: Path, *given: Any, **settings: Any) -> tuple[AdaptedFolder, dict[str, torch.Tensor]]:
    """Such a folder as it is read, and the weights of the model."""
    base = written(tmp_path, *given, **settings)
    return AdaptedFolder(read_adapters(str(tmp_path / "lora"))), load_file(base / "model.safetensors")


def imported(tmp_path: Path, check: Any = "off") -> str:
    lines: list[str] = []
    import_hf(str(tmp_path / "lora"), str(tmp_path / "made"), check=check, say=lines.append)
    return lines[-1]


def embedding_pair(rows: int = 83, module: str = EMBEDDING) -> dict[str, torch.Tensor]:
    a, b = peft_folders.numbers(2, rows, seed=11), peft_folders.numbers(64, 2, seed=12)
    return {f"{module}.lora_embedding_A": a, f"{module}.lora_embedding_B": b}


def stretched(weight: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Rows of [out, in] with these lengths."""
    return weight * (lengths / weight.pow(2).sum(1).sqrt())[:, None]


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_adapters_of_an_embedding_are_transposed_and_leave_the_head_alone(tmp_path: Path, family: str) -> None:
    pair = embedding_pair()
    folder, base = adapted(tmp_path, family, pair)
    before = base[f"{EMBEDDING}.weight"]
    a, b = pair.values()
    torch.testing.assert_close(folder.read(f"{EMBEDDING}.weight"), before + 2 * (b @ a).T, rtol=0, atol=1e-6)
    assert torch.equal(folder.read("lm_head.weight"), base.get("lm_head.weight", before))
    assert folder.config["tie_word_embeddings"] is False and folder.parted == (family == "qwen2")


def test_adapters_of_a_tied_head_leave_the_embedding_alone(tmp_path: Path) -> None:
    base = tiny.write("qwen2", tmp_path / "base")
    products = peft_folders.write(tmp_path / "lora", str(base), {HEAD: (83, 64)})
    weights = load_file(base / "model.safetensors")[f"{EMBEDDING}.weight"]
    peft_folders.also(tmp_path / "lora", {f"{HEAD}.base_layer.weight": weights})
    folder = AdaptedFolder(read_adapters(str(tmp_path / "lora")))
    assert torch.equal(folder.read(f"{EMBEDDING}.weight"), weights)
    torch.testing.assert_close(folder.read("lm_head.weight"), weights + 2 * products[HEAD], rtol=0, atol=1e-6)


@pytest.mark.parametrize("old", ["", ".weight"])
def test_dora_gives_every_output_the_length_that_was_learnt(tmp_path: Path, old: str) -> None:
    lengths = {QUERY: torch.arange(1.0, 65.0) * 0.1, EMBEDDING: torch.arange(64.0, 0.0, -1.0)}
    tensors = {f"{module}.lora_magnitude_vector{old}": value for module, value in lengths.items()}
    pair = embedding_pair()
    base = tiny.write("llama", tmp_path / "base")
    products = peft_folders.write(tmp_path / "lora", str(base), Q, use_dora=True)
    peft_folders.also(tmp_path / "lora", {**tensors, **pair})
    folder, before = AdaptedFolder(read_adapters(str(tmp_path / "lora"))), load_file(base / "model.safetensors")
    query = before[f"{QUERY}.weight"].double() + 2 * products[QUERY].double()
    expected = stretched(query, lengths[QUERY].double())
    torch.testing.assert_close(folder.read(f"{QUERY}.weight").double(), expected, rtol=1e-6, atol=1e-6)
    a, b = (tensor.double() for tensor in pair.values())
    columns = stretched(before[f"{EMBEDDING}.weight"].double().T + 2 * b @ a, lengths[EMBEDDING].double())
    torch.testing.assert_close(folder.read(f"{EMBEDDING}.weight").double(), columns.T, rtol=1e-6, atol=1e-6)


def test_a_product_in_pieces_is_the_product(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny.write("llama", tmp_path / "base")
    peft_folders.write(tmp_path / "lora", str(base), Q, use_dora=True)
    peft_folders.also(tmp_path / "lora", {f"{QUERY}.lora_magnitude_vector": torch.arange(1.0, 65.0)})
    folder = AdaptedFolder(read_adapters(str(tmp_path / "lora")))
    whole = folder.read(f"{QUERY}.weight")
    monkeypatch.setattr("trainers.engine.weights.adapter_deltas._AT_ONCE", 64 * 5)
    torch.testing.assert_close(folder.read(f"{QUERY}.weight"), whole, rtol=1e-6, atol=1e-6)


def test_gpt2_is_turned_by_its_layers_whatever_the_settings_say(tmp_path: Path) -> None:
    """PEFT looks at the layer: a Conv1D is [in, out], the head beside it is not."""
    module = "transformer.h.0.attn.c_proj"
    base = tiny.write("gpt2", tmp_path / "base")
    products = peft_folders.write(tmp_path / "lora", str(base), {module: (64, 64), HEAD: (83, 64)})
    folder, before = AdaptedFolder(read_adapters(str(tmp_path / "lora"))), load_file(base / "model.safetensors")
    turned = before[f"{module}.weight"] + 2 * products[module].T
    torch.testing.assert_close(folder.read(f"{module}.weight"), turned, rtol=0, atol=1e-6)
    head = before["transformer.wte.weight"] + 2 * products[HEAD]
    torch.testing.assert_close(folder.read("lm_head.weight"), head, rtol=0, atol=1e-6)


@pytest.mark.parametrize("given", [[1, 80], {"embed_tokens": [1, 80]}])
def test_tokens_that_were_trained_stand_in_both_ends_of_a_tied_model(tmp_path: Path, given: Any) -> None:
    rows = peft_folders.numbers(2, 64, seed=5)
    tensors = {f"{EMBEDDING}.token_adapter.trainable_tokens_delta": rows}
    folder, base = adapted(tmp_path, "qwen2", tensors, trainable_token_indices=given)
    expected = base[f"{EMBEDDING}.weight"].clone()
    expected[[1, 80]] = rows
    assert torch.equal(folder.read(f"{EMBEDDING}.weight"), expected)
    assert not folder.parted and "lm_head.weight" not in folder.tensors


def test_tokens_of_a_tied_head_part_it(tmp_path: Path) -> None:
    rows = peft_folders.numbers(1, 64, seed=5)
    tensors = {f"{HEAD}.token_adapter.trainable_tokens_delta": rows}
    folder, base = adapted(tmp_path, "qwen2", tensors, trainable_token_indices={"lm_head": [3]})
    assert torch.equal(folder.read(f"{EMBEDDING}.weight"), base[f"{EMBEDDING}.weight"])
    assert torch.equal(folder.read("lm_head.weight")[3], rows[0]) and folder.parted


def test_biases_and_the_model_below_are_those_that_came_with_the_adapters(tmp_path: Path) -> None:
    bias = peft_folders.numbers(64, seed=7)
    weight = peft_folders.numbers(64, 64, seed=8)
    tensors = {f"{QUERY}.base_layer.bias": bias, f"{QUERY}.base_layer.weight": weight}
    base = tiny.write("qwen2", tmp_path / "base", torch.bfloat16)
    products = peft_folders.write(tmp_path / "lora", str(base), Q, bias="lora_only")
    peft_folders.also(tmp_path / "lora", tensors)
    folder = AdaptedFolder(read_adapters(str(tmp_path / "lora")))
    assert torch.equal(folder.read(f"{QUERY}.bias").float(), bias) and folder.dtype(f"{QUERY}.bias") == "BF16"
    assert torch.equal(folder.read(f"{QUERY}.weight").float(), weight + 2 * products[QUERY])


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_more_tokens_make_a_larger_vocabulary(tmp_path: Path, family: str) -> None:
    new = peft_folders.numbers(90, 64, seed=1)
    ends = {f"{EMBEDDING}.weight": new, "lm_head.weight": new.clone() if family == "qwen2" else new + 1}
    folder, _ = adapted(tmp_path, family, ends, Q)
    assert folder.config["vocab_size"] == 90 and not folder.parted
    imported(tmp_path)
    made = json.loads((tmp_path / "made" / "model.json").read_text())
    assert (made["vocab_size"], made["tie_embeddings"]) == (90, family == "qwen2")


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_more_tokens_of_which_some_were_trained(tmp_path: Path, family: str) -> None:
    new, rows = peft_folders.numbers(90, 64, seed=1), peft_folders.numbers(2, 64, seed=5)
    ends = {f"{EMBEDDING}.token_adapter.base_layer.weight": new, DELTA: rows}
    if family == "qwen2":  # PEFT writes what is tied twice
        ends |= {name.replace(EMBEDDING, HEAD): tensor.clone() for name, tensor in ends.items()}
    else:
        ends["lm_head.weight"] = new + 1
    folder, _ = adapted(tmp_path, family, ends, Q, trainable_token_indices=[83, 84])
    expected = new.clone()
    expected[[83, 84]] = rows
    assert torch.equal(folder.read(f"{EMBEDDING}.weight"), expected) and folder.config["vocab_size"] == 90
    assert ("lm_head.weight" in folder.tensors, folder.parted) == (family == "llama", False)


def test_copies_that_stay_tied_are_both_there(tmp_path: Path) -> None:
    new = peft_folders.numbers(83, 64, seed=1)
    ends = {f"{EMBEDDING}.weight": new, "lm_head.weight": new.clone()}
    names = {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}
    folder, _ = adapted(tmp_path, "qwen2", ends, Q, **names)
    assert all(torch.equal(folder.read(name), new) for name in ends)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_logits_of_all_kinds_together_are_compared_without_peft_too(tmp_path: Path, family: str) -> None:
    tensors = embedding_pair(90) | {f"{EMBEDDING}.base_layer.weight": peft_folders.numbers(90, 64, seed=2)}
    tensors |= {f"{module}.lora_magnitude_vector": torch.arange(1.0, 65.0) for module in (QUERY, EMBEDDING)}
    tensors |= {"lm_head.weight": tensors[f"{EMBEDDING}.base_layer.weight"].clone()}
    written(tmp_path, family, tensors, Q, use_dora=True)
    assert "equal transformers" in imported(tmp_path, "on")


HOSTILE: dict[str, tuple[dict[str, Any], dict[str, tuple[int, ...]], str]] = {
    "no lengths": ({"use_dora": True}, {}, f"{QUERY} without lora_magnitude_vector"),
    "lengths that nobody named": ({}, {f"{QUERY}.lora_magnitude_vector": (64,)}, f"{QUERY} with lora_magnitude_vector"),
    "too few lengths": ({"use_dora": True}, {f"{QUERY}.lora_magnitude_vector": (63,)}, f"{QUERY} of "),
    "lengths alone": ({"use_dora": True}, {"a.b.lora_magnitude_vector": (64,)}, "a.b without lora_A"),
    "half an embedding": ({}, {f"{EMBEDDING}.lora_embedding_A": (2, 83)}, f"{EMBEDDING} without lora_embedding_B"),
    "both kinds": ({}, {f"{QUERY}.lora_embedding_A": (2, 64)}, "lora_embedding_A"),
    "more dimensions": (
        *({},),
        {f"{EMBEDDING}.lora_embedding_A": (2, 83, 1), f"{EMBEDDING}.lora_embedding_B": (64, 2)},
        f"{EMBEDDING} of ",
    ),
    "nothing in it": (
        *({},),
        {f"{EMBEDDING}.lora_embedding_A": (2, 0), f"{EMBEDDING}.lora_embedding_B": (0, 2)},
        f"{EMBEDDING}: [83, 64], not [0, 0]",
    ),
    "no rank": (
        *({},),
        {f"{EMBEDDING}.lora_embedding_A": (0, 83), f"{EMBEDDING}.lora_embedding_B": (64, 0)},
        f"{EMBEDDING} of F32 [0, 83], F32 [64, 0] for rank 2",
    ),
    "a rank of its own": ({"rank_pattern": {"q_proj": 2**31 - 1}}, {}, "for rank 2147483647"),
    "no tokens": ({"trainable_token_indices": [1]}, {}, "trainable_tokens_delta"),
    "tokens that nobody named": ({}, {DELTA: (1, 64)}, "for 0 ids"),
    "too few tokens": ({"trainable_token_indices": [1, 2]}, {DELTA: (1, 64)}, "for 2 ids"),
    "tokens of one number": ({"trainable_token_indices": [1]}, {DELTA: ()}, "for 1 ids"),
    "tokens beyond": ({"trainable_token_indices": [83]}, {DELTA: (1, 64)}, "tokens up to 83"),
    "far tokens": ({"trainable_token_indices": [2**31 - 1]}, {DELTA: (1, 64)}, "tokens up to 2147483647"),
    "narrow tokens": ({"trainable_token_indices": [1]}, {DELTA: (1, 63)}, f"{EMBEDDING}: [83, 64]"),
    "tokens of no embedding": ({"trainable_token_indices": [1]}, {f"x{DELTA}": (1, 64)}, f"x{EMBEDDING}: None"),
    "whole and adapted": ({}, {f"{QUERY}.weight": (64, 64)}, f"{QUERY}.weight"),
    "copied and adapted": ({}, {f"{QUERY}.modules_to_save.weight": (64, 64)}, "trained in two ways"),
    "below twice": (
        *({},),
        {f"{QUERY}.base_layer.weight": (64, 64), f"{QUERY}.original_module.weight": (64, 64)},
        f"{QUERY}.original_module.weight",
    ),
    "a bias of an adapter": ({}, {f"{QUERY}.lora_B.bias": (64,)}, "lora_B.bias"),
    "an adapter's name": ({}, {f"{QUERY}.lora_A.default.weight": (2, 64)}, "lora_A.default.weight"),
    "a vector of vera": ({}, {f"{QUERY}.vera_lambda_b": (64,)}, "vera_lambda_b"),
    "a head of a classifier": (
        *({"task_type": "SEQ_CLS"},),
        {"lm_head.lora_A.weight": (2, 64), "lm_head.lora_B.weight": (83, 2)},
        "lm_head.weight for a classifier",
    ),
    "no module": ({}, {"weight": (64,)}, "weight"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_tensors_that_the_settings_do_not_explain_are_refused_by_name(tmp_path: Path, case: str) -> None:
    settings, shapes, words = HOSTILE[case]
    written(tmp_path, "llama", {name: torch.ones(shape) for name, shape in shapes.items()}, Q, **settings)
    with pytest.raises(DataError) as error:
        imported(tmp_path)
    assert error.value.slug in ("wrong-adapters", "wrong-tensors") and words in error.value.found
    assert error.value.where and error.value.kept == "nothing was written" and not (tmp_path / "made").exists()


def test_a_base_without_prefix_takes_one_name_for_each_weight(tmp_path: Path) -> None:
    base = written(tmp_path, "llama", {}, Q)
    file = base / "model.safetensors"
    save_file({name.removeprefix("model."): tensor for name, tensor in load_file(file).items()}, file)
    short = QUERY.removeprefix("model.")
    folder = AdaptedFolder(read_adapters(str(tmp_path / "lora")))
    assert not torch.equal(folder.read(f"{short}.weight"), load_file(file)[f"{short}.weight"])
    again = {f"{short}.lora_A.weight": torch.ones(2, 64), f"{short}.lora_B.weight": torch.ones(64, 2)}
    peft_folders.also(tmp_path / "lora", again)
    with pytest.raises(DataError, match="do not fit") as error:
        AdaptedFolder(read_adapters(str(tmp_path / "lora")))
    assert "of two names" in error.value.found


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({f"{EMBEDDING}.weight": 1.0, f"{EMBEDDING}.modules_to_save.weight": 2.0}, "which is not"),
        ({f"{EMBEDDING}.base_layer.weight": 1.0, "lm_head.base_layer.weight": 2.0}, "tied"),
    ],
)
def test_tensors_that_have_to_be_equal_and_are_not_are_refused(
    tmp_path: Path, tensors: dict[str, float], words: str
) -> None:
    written(tmp_path, "qwen2", {name: torch.full((83, 64), value) for name, value in tensors.items()}, Q)
    with pytest.raises(DataError) as error:
        imported(tmp_path)
    assert error.value.slug == "wrong-adapters" and words in error.value.found


def test_lengths_of_an_output_that_is_nothing_are_refused(tmp_path: Path) -> None:
    zero = {f"{QUERY}.base_layer.weight": torch.zeros(64, 64), f"{QUERY}.lora_magnitude_vector": torch.ones(64)}
    folder, _ = adapted(tmp_path, "llama", zero, use_dora=True, shapes=Q, lora_alpha=1e-40)
    with pytest.raises(DataError, match="not finite"):
        folder.read(f"{QUERY}.weight")


@pytest.mark.parametrize("kind", ["folder", "dangling", "device", "fifo"])
def test_what_is_no_file_is_no_file_of_tensors(tmp_path: Path, kind: str) -> None:
    base = tiny.write("llama", tmp_path / "base")
    peft_folders.write(tmp_path / "lora", str(base), Q)
    place = tmp_path / "lora" / "adapter_model.safetensors"
    place.unlink()
    if kind == "folder":
        place.mkdir()
    elif kind == "fifo":
        os.mkfifo(place)
    else:
        place.symlink_to("/dev/zero" if kind == "device" else tmp_path / "nowhere")
    with pytest.raises(ConfigError) as error:
        imported(tmp_path)
    assert error.value.slug == "no-safetensors" and error.value.where == str(tmp_path / "lora")


def test_a_link_to_another_file_is_read_as_tensors_only(tmp_path: Path) -> None:
    base = tiny.write("llama", tmp_path / "base")
    peft_folders.write(tmp_path / "lora", str(base), Q)
    (tmp_path / "secret").write_text("the password")
    place = tmp_path / "lora" / "adapter_model.safetensors"
    place.unlink()
    place.symlink_to(tmp_path / "secret")
    with pytest.raises(DataError) as error:
        imported(tmp_path)
    assert error.value.slug == "bad-safetensors" and "password" not in str(error.value)
