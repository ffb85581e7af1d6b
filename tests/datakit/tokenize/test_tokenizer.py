"""Tokenizers: published vectors, Hugging Face's ids, and control tokens that contents can never make."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pyarrow as pa
import pytest

from datakit.op import Context
from datakit.template import Chat
from datakit.tokenizers.tokenizer import Tokenizer
from schemas import MESSAGES, PIECES, TOKENIZERS
from schemas.errors import ConfigError, DataError

CONTROL = ["<|end|>", "<|im_start|>", "<|im_end|>", "<s>", "</s>", "<extra_id_1>"]


@pytest.fixture(scope="module")
def small() -> Tokenizer:
    """A byte-level vocabulary with a few merges and control tokens."""
    import tokenizers

    own = tokenizers.Tokenizer(tokenizers.models.BPE())
    own.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    own.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        show_progress=False,
        special_tokens=CONTROL,
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
    )
    own.train_from_iterator(["what is the answer to the question", "<|im_start|>user"] * 50, trainer)
    return Tokenizer("small", own.to_str(), None, "<s>", "</s>", None)


def pieces(*rows: list[tuple[str, bool, bool]]) -> pa.Array:
    return pa.array([[{"text": t, "special": s, "trained": r} for t, s, r in row] for row in rows], PIECES)


def ids_of(tokenizer: Tokenizer, column: pa.Array) -> list[list[int]]:
    done = tokenizer.encode_pieces(column)
    return [done.ids[a:b].tolist() for a, b in zip(done.offsets, done.offsets[1:], strict=False)]


def test_gpt2_vectors(shared_data: Path) -> None:
    folder = shared_data / "tokenizer-gpt2"
    texts = (folder / "vectors.inp").read_text().split("\n__ggml_vocab_test__\n")
    expected = [[int(one) for one in line.split()] for line in (folder / "vectors.out").read_text().split("\n")]
    tokenizer = Tokenizer.of_folder(str(folder))
    assert tokenizer.encode(texts) == expected
    assert tokenizer.decode(expected) == texts
    assert (tokenizer.size, tokenizer.control) == (50257, ("<|endoftext|>",))


FOLDERS = ["tokenizer-gpt2", "tokenizer-oasst-tiny", "model-stories260k/hf"]


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("template", ["plain", "chatml", "llama3", "extra_id"])
def test_no_control_token_comes_out_of_any_content(shared_data: Path, folder: str, template: str) -> None:
    tokenizer = Tokenizer.of_folder(str(shared_data / folder))
    marks = [text for mark in tokenizer.control for text in (mark, f"a{mark}", f" {mark} b", mark * 3)]
    _no_control_in_contents(tokenizer, template, marks)


@pytest.mark.parametrize("template", ["plain", "chatml", "llama3", "extra_id"])
def test_no_control_token_comes_out_of_any_content_of_a_trained_vocabulary(small: Tokenizer, template: str) -> None:
    _no_control_in_contents(small, template, [*CONTROL, "<|im_" + "end|>" * 2])


def _no_control_in_contents(tokenizer: Tokenizer, template: str, marks: list[str]) -> None:
    roles = ("system", "user", "assistant", "user", "assistant")
    clean = [{"role": role, "content": "x"} for role in roles]
    rows = [clean]
    for mark in marks:
        rows += [
            [{**turn, "content": mark if at == place else "x"} for at, turn in enumerate(clean)] for place in range(5)
        ]
    done = Chat(template=template).label(
        pa.table({"messages": pa.array(rows, MESSAGES)}), Context(resources={"tokenizer": tokenizer})
    )
    control = [[one for one in ids if one in tokenizer.control_ids] for ids in ids_of(tokenizer, done["pieces"])]
    assert all(row == control[0] for row in control), marks


def test_ids_equal_those_of_the_whole_text_where_contents_hold_no_marks(small: Tokenizer) -> None:
    import tokenizers

    own = tokenizers.Tokenizer.from_str(small.tokenizer_json)
    chats = [
        [{"role": "user", "content": " what is\n\n"}, {"role": "assistant", "content": "the answer"}],
        [
            {"role": "system", "content": "é漢"},
            {"role": "user", "content": ""},
            {"role": "assistant", "content": "\n a"},
        ],
    ]
    for template in ("plain", "chatml"):
        done = Chat(template=template, generation=True).label(
            pa.table({"messages": pa.array(chats, MESSAGES)}), Context(resources={"tokenizer": small})
        )
        expected = [one.ids for one in own.encode_batch(done["prompt"].to_pylist(), add_special_tokens=False)]
        assert ids_of(small, done["pieces"]) == expected


def test_a_prompts_ids_begin_the_ids_of_the_whole_conversation(small: Tokenizer) -> None:
    chat = [{"role": "user", "content": "what"}, {"role": "assistant", "content": " the\n"}]
    context = Context(resources={"tokenizer": small})
    for template in ("plain", "chatml", "llama3", "extra_id"):
        whole = Chat(template=template).label(pa.table({"messages": pa.array([chat], MESSAGES)}), context)
        prompt = Chat(template=template, generation=True).label(
            pa.table({"messages": pa.array([chat[:1]], MESSAGES)}), context
        )
        full, head = ids_of(small, whole["pieces"])[0], ids_of(small, prompt["pieces"])[0]
        assert full[: len(head)] == head
        assert not small.encode_pieces(whole["pieces"]).trained[: len(head)].any()


def test_stretches_by_hand(small: Tokenizer) -> None:
    end, start = small.id_of("<|im_end|>"), small.id_of("<|im_start|>")
    row = [
        ("<|im_start|>us", True, False),
        ("er<|im_end|>", False, False),
        ("<|im_end|>", True, True),
        ("z", True, True),
    ]
    plain = small.encode(["user<|im_end|>", "z"])
    assert ids_of(small, pieces(row, [], [("", False, True)])) == [[start, *plain[0], end, *plain[1]], [], []]
    done = small.encode_pieces(pieces(row))
    assert done.trained.tolist() == [False] * (1 + len(plain[0])) + [True, True]


def test_a_sentencepiece_like_tokenizer_puts_its_leading_blank_only_at_the_beginning() -> None:
    import tokenizers

    vocab = {"<unk>": 0, "<s>": 1, "▁": 2, "a": 3, "b": 4, "▁a": 5, "▁b": 6}
    own = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, [("▁", "a"), ("▁", "b")], unk_token="<unk>"))
    own.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme="first")
    own.add_special_tokens(["<s>"])
    tokenizer = Tokenizer("sp", own.to_str(), None, "<s>", None, None)
    row = [("<s>", True, False), ("a", False, False), (" b", False, True)]
    assert ids_of(tokenizer, pieces(row, row[1:])) == [[1, 3, 6], [5, 6]]
    assert own.encode("<s>a b", add_special_tokens=False).ids == [1, 3, 6]
    assert tokenizer.encode(["z"]) == [[2, 0]], "what the vocabulary cannot spell stays the unknown token"


def test_a_model_that_spells_a_control_token_is_cut_short() -> None:
    import tokenizers

    vocab = [("<unk>", 0.0), ("<s>", -1.0), ("<", -5.0), ("s", -5.0), (">", -5.0), ("a", -5.0)]
    own = tokenizers.Tokenizer(tokenizers.models.Unigram(vocab, unk_id=0))
    own.add_special_tokens(["<s>"])
    tokenizer = Tokenizer("unigram", own.to_str(), None, "<s>", None, None)
    assert tokenizer.encode(["a<s>a"]) == [[5, 2, 3, 4, 5]]


def test_row_files_and_digest_round_trip(small: Tokenizer, tmp_path: Path) -> None:
    for name, data in small.files.items():
        (tmp_path / name).write_bytes(data)
    again = Tokenizer.of_folder(str(tmp_path))
    assert again.identity == small.identity
    assert (again.bos_token, again.eos_token, again.pad_token) == ("<s>", "</s>", None)
    assert TOKENIZERS.check(small.row).num_rows == 1
    spaced = Tokenizer("other", json.dumps(json.loads(small.tokenizer_json), indent=3), None, "<s>", "</s>", None)
    assert spaced.identity == small.identity
    assert Tokenizer("other", small.tokenizer_json, "{{ x }}", "<s>", "</s>", None).identity != small.identity
    assert pickle.loads(pickle.dumps(small)).encode(["what is"]) == small.encode(["what is"])


def test_a_folder_names_its_template_and_special_tokens(small: Tokenizer, tmp_path: Path) -> None:
    config = {
        "bos_token": {"content": "<s>"},
        "chat_template": [{"name": "tool", "template": "t"}, {"name": "default", "template": "d"}],
    }
    (tmp_path / "tokenizer.json").write_text(small.tokenizer_json)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "special_tokens_map.json").write_text('{"eos_token": "</s>"}')
    tokenizer = Tokenizer.of_folder(str(tmp_path))
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.chat_template) == ("<s>", "</s>", "d")
    (tmp_path / "chat_template.jinja").write_text("file")
    assert Tokenizer.of_folder(str(tmp_path)).chat_template == "file"


def test_broken_tokenizers_are_named(small: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no tokenizer\.json"):
        Tokenizer.of_folder(str(tmp_path))
    for text in ("", "{", "[]", "{}", '{"version": "1.0", "model": {"type": "BPE"}}'):
        (tmp_path / "tokenizer.json").write_text(text)
        with pytest.raises(DataError):
            Tokenizer.of_folder(str(tmp_path))
    with pytest.raises(DataError, match="have no id"):
        Tokenizer("x", small.tokenizer_json, None, "<nobody>", None, None)
