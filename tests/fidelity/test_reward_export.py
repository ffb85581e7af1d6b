"""An exported reward model scores in transformers' own class, padded batches included, what the engine scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from tests.fidelity import folders
from tests.trainers.networks import words
from trainers.engine.inference.frozen import open_scorer
from trainers.engine.weights import comparison, padding
from trainers.engine.weights.export_hf import export
from trainers.engine.weights.import_hf import import_hf

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")

EOS, SIZE = 1, 83
REWARDS = {
    "llama": ("Llama", {}),
    "mistral": ("Mistral", {"sliding_window": 8}),
    "mixtral": ("Mixtral", {"num_local_experts": 4}),
    "nemotron": ("Nemotron", {}),
    "gpt2": ("GPT2", {}),
    "qwen2": ("Qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0}),
    "qwen3": ("Qwen3", {"head_dim": 32}),
}


def special(*texts: str, ordinary: int = 0, unknown: str | None = None) -> Tokenizer:
    """Words of which the first are special tokens."""
    vocabulary = {text: number for number, text in enumerate([*texts, *(f"w{n}" for n in range(ordinary))])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown or texts[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in texts])
    return tokenizer


TOKENIZERS: dict[str, tuple[Tokenizer, dict[str, Any], dict[str, Any], int]] = {
    # tokenizer, its settings, keys of config.json, the id that has to fill batches
    "only unknown": (words(SIZE), {"eos_token": "w1"}, {}, 0),
    "named by config.json": (words(SIZE), {"eos_token": "w1"}, {"pad_token_id": 7}, 7),
    "named by the tokenizer": (words(SIZE), {"eos_token": "w1", "pad_token": "w5"}, {}, 5),
    "its end token": (words(SIZE), {"eos_token": "w1", "pad_token": "w1"}, {"pad_token_id": EOS}, 0),
    "one of two end tokens": (words(SIZE), {"eos_token": "w1"}, {"pad_token_id": 7, "eos_token_id": [1, 7]}, 0),
    "Llama 3's": (
        special("<unk>", "</s>", "<|reserved_special_token_0|>", "<|finetune_right_pad_id|>", ordinary=79),
        {"eos_token": "</s>"},
        {},
        3,
    ),
    "reserved": (
        special("<unk>", "</s>", "<|reserved_special_token_0|>", ordinary=80),
        {"eos_token": "</s>"},
        {},
        2,
    ),
    "rows without a token": (special("<unk>", "</s>", ordinary=70), {"eos_token": "</s>"}, {}, 72),
    "begin": (
        special("<s>", "</s>", "<other>", ordinary=80, unknown="</s>"),
        {"eos_token": "</s>", "bos_token": "<s>"},
        {},
        0,
    ),
}


def reward_folder(folder: Path, kind: str, settings: dict[str, Any], head_size: int = 1) -> Path:
    return folders.write(folder, kind, {**settings, "num_labels": head_size}, head="ForSequenceClassification")


def dress(folder: Path, tokenizer: Tokenizer, settings: dict[str, Any], keys: dict[str, Any]) -> None:
    (folder / "tokenizer.json").write_text(tokenizer.to_str())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    config = json.loads((folder / "config.json").read_text())
    kept = {name: value for name, value in config.items() if not name.endswith("_token_id")}
    (folder / "config.json").write_text(json.dumps(kept | keys))
    if isinstance(keys["eos_token_id"], list):
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": keys["eos_token_id"]}))


def rows_ending(ends: list[int], pad: int) -> list[list[int]]:
    """Rows of several lengths; all but the last end in an end token, and the longest hold `pad` first and inside."""
    generator = torch.Generator().manual_seed(2)
    drawn = [torch.randint(8, SIZE, (n,), generator=generator).tolist() for n in (31, 4, 17, 1, 9)]
    for row in (drawn[0], drawn[2]):
        row[0] = row[7] = row[8] = pad
    rows = [[*row, ends[number % len(ends)]] for number, row in enumerate(drawn)]
    return [*rows[:-1], rows[-1][:-1]]


@torch.no_grad()
def in_transformers(folder: Path, rows: list[list[int]], side: str, **known: Any) -> torch.Tensor:
    """Scores by the class that config.json names, of one batch padded with what config.json names."""
    network = transformers.AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    longest, pad = max(map(len, rows)), network.config.pad_token_id
    fill = [[pad] * (longest - len(row)) for row in rows]
    left = side == "left"
    ids = [space + row if left else row + space for row, space in zip(rows, fill, strict=True)]
    seen = [
        [0] * len(s) + [1] * len(r) if left else [1] * len(r) + [0] * len(s) for r, s in zip(rows, fill, strict=True)
    ]
    mask = torch.tensor(seen)
    if network.config.model_type == "gpt2" and left:
        known["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
    scores: torch.Tensor = network(torch.tensor(ids), attention_mask=mask, **known).logits
    return scores


def by_the_engine(checkpoint: Path, rows: list[list[int]]) -> torch.Tensor:
    scores = open_scorer(str(checkpoint)).score(pa.table({"input_ids": pa.array(rows, pa.list_(pa.int32()))}))
    return torch.tensor([scores[name].to_pylist() for name in sorted(scores)]).T


def converted(source: Path, root: Path, lines: list[str] | None = None) -> tuple[Path, Path]:
    say = (lambda line: None) if lines is None else lines.append
    import_hf(str(source), str(root / "checkpoint"), check="off", say=say)
    export(str(root / "checkpoint"), str(root / "exported"), check="off", say=say)
    return root / "checkpoint", root / "exported"


@pytest.mark.parametrize("name", REWARDS)
def test_every_family_scores_padded_batches_alike(tmp_path: Path, name: str) -> None:
    kind, settings = REWARDS[name]
    source = reward_folder(tmp_path / "source", kind, settings, head_size=2 if name == "nemotron" else 1)
    dress(source, words(SIZE), {"eos_token": "w1"}, {"eos_token_id": EOS})
    checkpoint, exported = converted(source, tmp_path)
    rows = rows_ending([EOS], json.loads((exported / "config.json").read_text())["pad_token_id"])
    ours = by_the_engine(checkpoint, rows)
    assert ours.std() > 0.05
    alone = torch.cat([in_transformers(exported, [row], "right") for row in rows])
    assert (alone - ours).abs().max() < 2e-5
    for side in ("left", "right"):
        theirs = in_transformers(exported, rows, side)
        assert theirs.shape == ours.shape and (theirs - ours).abs().max() < 2e-5, side


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reward_folder(tmp_path_factory.mktemp("llama") / "source", "Llama", {})


@pytest.mark.parametrize("case", TOKENIZERS)
def test_padding_is_never_an_end_token(llama: Path, tmp_path: Path, case: str) -> None:
    tokenizer, settings, keys, pad = TOKENIZERS[case]
    source = tmp_path / "source"
    source.mkdir()
    for file in llama.iterdir():
        (source / file.name).write_bytes(file.read_bytes())
    dress(source, tokenizer, settings, {"eos_token_id": EOS, **keys})
    checkpoint, exported = converted(source, tmp_path)
    config = json.loads((exported / "config.json").read_text())
    assert config["pad_token_id"] == pad
    ends = config["eos_token_id"] if isinstance(config["eos_token_id"], list) else [config["eos_token_id"]]
    assert EOS in ends
    rows = rows_ending(ends, pad)
    ours = by_the_engine(checkpoint, rows)
    for side in ("left", "right"):
        assert (in_transformers(exported, rows, side) - ours).abs().max() < 2e-5, side
    loaded = transformers.AutoTokenizer.from_pretrained(exported)
    assert loaded.pad_token_id in (pad, None)
    plain = transformers.AutoTokenizer.from_pretrained(source)
    assert loaded("w3 w30 w64")["input_ids"] == plain("w3 w30 w64")["input_ids"]
    if pad not in (0, 7):
        batch = loaded.pad({"input_ids": rows}, padding_side="left", return_tensors="pt")
        assert batch["input_ids"][1, 0] == pad and batch["attention_mask"].sum() == sum(map(len, rows))


def test_where_nothing_can_fill_a_batch_that_is_reported_and_rows_alone_are_right(llama: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for file in llama.iterdir():
        (source / file.name).write_bytes(file.read_bytes())
    bare = Tokenizer(models.WordLevel({f"w{n}": n for n in range(SIZE)}, unk_token="w1"))
    dress(source, bare, {"eos_token": "w1", "pad_token": "w1"}, {"eos_token_id": EOS, "pad_token_id": EOS})
    lines: list[str] = []
    checkpoint, exported = converted(source, tmp_path, lines)
    assert any("one row at a time" in line for line in lines) and any(
        "reads scores before it" in line for line in lines
    )
    rows = rows_ending([EOS], EOS)
    alone = torch.cat([in_transformers(exported, [row], "right") for row in rows])
    assert (alone - by_the_engine(checkpoint, rows)).abs().max() < 2e-5
    with pytest.raises(ValueError, match="padding token"):
        in_transformers(exported, [rows[0], rows[0]], "right")


def test_the_check_on_the_way_out_sees_a_score_read_one_token_early(llama: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for file in llama.iterdir():
        (source / file.name).write_bytes(file.read_bytes())
    dress(source, words(SIZE), {"eos_token": "w1"}, {"eos_token_id": EOS})
    checkpoint, exported = converted(source, tmp_path)
    model = comparison.checkpoint.open_checkpoint(str(checkpoint)).model
    job = {"folder": str(exported), "place": str(checkpoint)}
    layout = comparison.parallel.start(comparison.Parallel())
    assert comparison.scores(job, model, layout)["difference"] < 2e-5
    config = json.loads((exported / "config.json").read_text())
    (exported / "config.json").write_text(json.dumps({**config, padding.PAD: EOS}))
    assert comparison.scores(job, model, layout)["difference"] > 0.05


@pytest.mark.parametrize(("config", "number"), [({}, None), ({"pad_token_id": -1}, None), ({"pad_token_id": 0}, 0)])
def test_a_pad_token_id_that_names_a_row_is_kept(config: dict[str, Any], number: int | None) -> None:
    assert padding.wished(config, SIZE) == (number, None)


@pytest.mark.parametrize("value", [SIZE, -2, "3", 2.0, True, [1]])
def test_a_pad_token_id_that_names_none_is_reported(value: Any) -> None:
    number, note = padding.wished({"pad_token_id": value}, SIZE)
    assert number is None and note is not None and "left out" in note
