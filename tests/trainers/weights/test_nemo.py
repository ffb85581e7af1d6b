"""Models of NeMo in every layout that it writes: what comes in computes what the source computes."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import pytest
import torch

from schemas.errors import ConfigError, DataError, IntegrityError
from schemas.nemo.model import Settings, tokenizer_files
from tests.trainers.weights import nemo_archives as nemo
from tests.trainers.weights import nemo_oracle as oracle
from trainers.engine.checkpoint import checkpoint
from trainers.engine.checkpoint.stored import Stored
from trainers.engine.megatron import parallel
from trainers.engine.weights import comparison
from trainers.engine.weights.import_hf import import_hf
from trainers.engine.weights.nemo import settings
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


def rewarding(config: dict, made: oracle.Weights, numbers: int, bias: bool) -> oracle.Weights:
    """The same network with a reward head of NeMo-Aligner's, beside the language model's."""
    torch.manual_seed(7)
    head = torch.randn(numbers, config["hidden_size"]) / config["hidden_size"] ** 0.5
    return made | {"rm_head.weight": head, "rm_head.bias": torch.randn(numbers) * bias}


@pytest.mark.parametrize(("name", "numbers", "bias"), [("llama-2", 1, False), ("gpt-2b-001", 9, True)])
def test_reward_models_of_nemo_aligner(tmp_path, name, numbers, bias):
    config = nemo.CONFIGS[name] | {"reward_model_type": "regression", "regression": {"num_attributes": numbers}}
    made = rewarding(config, nemo.weights(config), numbers, bias)
    source = nemo.archive(tmp_path / "m.nemo", config, nemo.rank_files(config, made, 2, 2))
    same(config, made, imported(source, tmp_path / "out"))
    model = checkpoint.open_checkpoint(str(tmp_path / "out"), verify="off").model
    assert (model.head, model.head_size) == ("scalar", numbers)


def test_the_bias_of_a_head_that_nothing_can_take_is_named(tmp_path):
    config = nemo.CONFIGS["llama-2"]
    made = rewarding(config, nemo.weights(config), 1, True)
    with pytest.raises(ConfigError, match=r"rm_head\.bias is not supported on a network of RMSNorm"):
        imported(nemo.archive(tmp_path / "m.nemo", config, nemo.rank_files(config, made)), tmp_path / "out")


REFUSED = {
    "activation": "reglu", "normalization": "batchnorm", "position_embedding_type": "alibi", "headscale": True,
    "transformer_block_type": "normformer", "megatron_legacy": True, "seq_len_interpolation_factor": 2.0,
    "use_avg_pool": True, "regression": {"merge_attributes": True}, "reward_standardization": {"enable": True},
    "window_size": [4, 4], "target": "nemo.MegatronT5Model", "name": "megatron_falcon_gpt", "rotary_interleaved": True,
    "multi_latent_attention": True, "attention_output_gate": True, "apply_embedding_scaling": True, "num_layers": "4",
    "softmax_scale": 0.5, "moe_shared_expert_intermediate_size": 64, "qk_l2_norm": True, "num_experts_of_mine": 3,
    "apply_residual_connection_post_layernorm": True,
}  # fmt: skip


@pytest.mark.parametrize("key", REFUSED)
def test_what_the_settings_ask_for_beyond_the_network_is_named(tmp_path, key):
    config = nemo.CONFIGS["mixtral"] | {key: REFUSED[key]}
    with pytest.raises(ConfigError) as refused:
        settings.model_of(Settings("model_config.yaml", config), "m.nemo", oracle.IDS)
    assert refused.value.slug == "unsupported-model" and key.split(".")[0] in refused.value.what


@pytest.mark.parametrize("changes", [{"bias_activation_fusion": False}, {"bias": False}])
def test_the_exact_form_of_gelu_is_named(changes):
    config = nemo.CONFIGS["gpt-3"] | changes
    with pytest.raises(ConfigError, match="gelu in its exact form"):
        settings.model_of(Settings("model_config.yaml", config), "m.nemo", oracle.IDS)
    assert settings.model_of(Settings("model_config.yaml", config | {"openai_gelu": True}), "m", 9).activation == "gelu"


@pytest.mark.parametrize("key", ["gated_linear_unit", "normalization", "ffn_hidden_size", "add_bias_linear"])
def test_nemo_2_guesses_no_default_of_a_class(key):
    values = nemo.second_config(nemo.CONFIGS["llama-2"])
    del values["config"][key]
    with pytest.raises(ConfigError, match=f"{key} is missing"):
        settings.model_of(Settings("context/model.yaml", values), "m", oracle.IDS)


@pytest.mark.parametrize("kind", ["gemma.Gemma", "llama_embedding.LlamaEmbedding", "llama4.Llama4", "bert.Bert"])
@pytest.mark.parametrize("part", ["Model", "Config"])
def test_classes_of_nemo_2_that_do_more_than_their_settings_say_are_named(kind, part):
    values = nemo.second_config(nemo.CONFIGS["llama-2"])
    there = values if part == "Model" else values["config"]
    there["_target_"] = f"nemo.collections.llm.gpt.model.{kind}{part}"
    with pytest.raises(ConfigError, match=f"_target_ {there['_target_']} is not supported"):
        settings.model_of(Settings("context/model.yaml", values), "m", oracle.IDS)
    there["_target_"] = f"nemo.collections.llm.gpt.model.llama.Llama{part}"
    assert settings.model_of(Settings("context/model.yaml", values), "m", oracle.IDS).num_layers == 4


def test_a_tensor_that_is_read_with_another_sign_is_refused(tmp_path):
    config = nemo.CONFIGS["llama-2"]
    state = {f"model.{name}": tensor for name, tensor in nemo.weights(config).items()}
    name = "model.decoder.layers.0.mlp.linear_fc2.weight"
    state[name] = torch._neg_view(state[name])
    data = io.BytesIO()
    torch.save(state, data)
    source = nemo.archive(tmp_path / "m.nemo", config, {"model_weights.ckpt": data.getvalue()})
    with pytest.raises(IntegrityError, match="cannot be read") as refused:
        imported(source, tmp_path / "out")
    assert "another sign" in refused.value.found


def test_weights_that_are_there_twice_are_refused(tmp_path):
    config = nemo.CONFIGS["llama-2"]
    files = nemo.rank_files(config, nemo.weights(config))
    files |= nemo.distributed_files(nemo.weights(config, 1), "model_weights/", "model.")
    with pytest.raises(IntegrityError) as refused:
        imported(nemo.archive(tmp_path / "m.nemo", config, files), tmp_path / "out")
    assert "weights twice" in refused.value.found


def test_ranks_that_make_no_model_are_refused(tmp_path):
    config = nemo.CONFIGS["llama-2"]
    files = nemo.rank_files(config, nemo.weights(config), 2, 2)
    for number, change in enumerate(
        ({"tp_rank_01_pp_rank_001/model_weights.ckpt": None}, {"mp_rank_00/model_weights.ckpt": b""})
    ):
        changed = {name: data for name, data in (files | change).items() if data is not None}
        with pytest.raises(IntegrityError):
            imported(nemo.archive(tmp_path / f"{number}.nemo", config, changed), tmp_path / "out")


def test_weights_that_are_not_the_settings_are_named(tmp_path):
    config = nemo.CONFIGS["llama-2"]
    made = nemo.weights(config)
    files = nemo.rank_files(config, {**made, "decoder.layers.0.odd.weight": torch.ones(2)})
    with pytest.raises(DataError, match=r"unexpected: decoder\.layers\.0\.odd"):
        imported(nemo.archive(tmp_path / "m.nemo", config, files), tmp_path / "out")
    other = config | {"num_layers": 5}
    with pytest.raises(DataError, match=r"missing: decoder\.layers\.4"):
        imported(nemo.archive(tmp_path / "n.nemo", other, nemo.rank_files(config, made)), tmp_path / "out")


def test_a_head_that_is_tied_and_another_is_named(tmp_path):
    config = nemo.CONFIGS["gpt-3"]
    made = nemo.weights(config)
    embedding = made["embedding.word_embeddings.weight"]
    for number, head in enumerate((embedding, embedding + 1)):
        files = nemo.rank_files(config, {**made, "output_layer.weight": head}, 1, 2)
        source = nemo.archive(tmp_path / f"{number}.nemo", config, files)
        if number:
            with pytest.raises(DataError, match="tie the embeddings"):
                imported(source, tmp_path / f"out-{number}")
        else:
            same(config, made, imported(source, tmp_path / f"out-{number}"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_keep_their_type(tmp_path, dtype):
    config = nemo.CONFIGS["llama-3.1"]
    made = nemo.weights(config, dtype=dtype)
    imported(nemo.second_folder(tmp_path / "m", config, made), tmp_path / "out")
    stored = Stored(str(tmp_path / "out" / "weights"))
    assert {stored.dtype(name) for name in stored.tensors} == {dtype}
    assert torch.equal(
        stored.read("decoder.layers.mlp.linear_fc1.weight", (3,)), made["decoder.layers.3.mlp.linear_fc1.weight"]
    )


def test_an_index_of_other_versions_is_read(tmp_path):
    """Names under which Megatron 0.12 to 0.15 and PyTorch 2.1 wrote the same classes."""
    config = nemo.CONFIGS["llama-2"]
    made = nemo.weights(config)
    files = nemo.distributed_files(made, "model_weights/", "model.")
    ours, sharded = "torch.distributed.checkpoint.metadata", "torch.distributed._shard.sharded_tensor.metadata"
    renamed = {
        f"{ours}\nMetadata": "megatron.core.dist_checkpointing.strategies.torch\nMCoreMetadata",
        f"{ours}\nTensorProperties": f"{sharded}\nTensorProperties",
    }
    index = pickle.dumps(pickle.loads(files["model_weights/.metadata"]), protocol=2)
    for old, new in renamed.items():
        assert f"c{old}\n".encode() in index
        index = index.replace(f"c{old}\n".encode(), f"c{new}\n".encode())
    files["model_weights/.metadata"] = index
    same(config, made, imported(nemo.archive(tmp_path / "m.nemo", config, files), tmp_path / "out"))


TOKENIZERS = {
    "sentencepiece": ({"library": "sentencepiece", "model": "nemo:ab_x.model"}, {"tokenizer.model": b"one"}),
    "tokenizers": ({"library": "huggingface", "type": "nemo:ab_y.json"}, {"tokenizer.json": b"two"}),
    "gpt-2": (
        {"library": "megatron", "type": "GPT2BPETokenizer", "vocab_file": "nemo:ab_y.json",
         "merge_file": "nemo:ab_z.txt"},
        {"vocab.json": b"two", "merges.txt": b"three"},
    ),
    "named": ({"library": "huggingface", "type": "meta-llama/Llama-2-7b"}, {}),
}  # fmt: skip


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_the_tokenizer_of_an_archive(tmp_path, kind):
    given, files = TOKENIZERS[kind]
    there = {"ab_x.model": b"one", "ab_y.json": b"two", "ab_z.txt": b"three"}
    source = nemo.archive(tmp_path / "m.nemo", nemo.CONFIGS["llama-2"] | {"tokenizer": given}, there)
    assert tokenizer_files(str(source)) == files


def test_the_tokenizer_of_a_folder_of_nemo_2(tmp_path):
    config = nemo.CONFIGS["llama-2"]
    folder = nemo.second_folder(tmp_path / "m", config, nemo.weights(config))
    assert tokenizer_files(str(folder)) == {"tokenizer.json": nemo.tokenizer_file()}
    (folder / "context/nemo_tokenizer/tokenizer.json").unlink()
    (folder / "context/tokenizer.model").write_bytes(b"one")
    assert tokenizer_files(str(folder)) == {"tokenizer.model": b"one"}


def test_a_tokenizer_with_more_ids_than_rows_is_named(tmp_path):
    config = nemo.CONFIGS["llama-2"]
    made = nemo.weights(config)
    few = {name: tensor[:40] if tensor.shape[0] == nemo.ROWS else tensor for name, tensor in made.items()}
    small = {name: few[name] for name in ("embedding.word_embeddings.weight", "output_layer.weight")}
    source = nemo.archive(tmp_path / "m.nemo", config, nemo.rank_files(config, made | small))
    with pytest.raises(DataError, match="ids up to 42"):
        imported(source, tmp_path / "out")
