"""Tokenizers from outside: ids of the programs they come from, one identity for one content, exact chat texts."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from datakit.apply import apply
from datakit.op import Context
from datakit.template import Chat
from datakit.tokenize import Adopt
from datakit.tokenizers.tokenizer import Tokenizer
from schemas import MESSAGES, PIECES
from schemas.errors import ConfigError, DataError, IntegrityError
from schemas.tokenizer import dataset_identity, files_of, folder_identity, read_folder
from tests.datakit.fakes import Example

WORDS = Path(__file__).with_name("words.json")
EXAMPLES = [Example(Adopt(path=str(WORDS), eos="</s>"))]

# Mistral's own renderings; the tokenizer itself puts a blank before what stands behind a control token.
V1 = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)
V3 = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST]' + m['content'] + '[/INST]' }}"
    "{% else %}{{ m['content'] + eos_token }}{% endif %}{% endfor %}"
)


def adopted(**settings: Any) -> Tokenizer:
    (result,) = Adopt(**settings).read(Context())
    return Tokenizer(**result.rows.to_pylist()[0])


def rendered(tokenizer: Tokenizer, messages: list[dict[str, str]]) -> tuple[list[int], str]:
    columns = Chat().label(
        pa.table({"messages": pa.array([messages], MESSAGES)}), Context(resources={"tokenizer": tokenizer})
    )
    return tokenizer.encode_pieces(columns["pieces"]).ids.tolist(), columns["text"][0].as_py()


def saved(tokenizer: Tokenizer, folder: Path) -> Any:
    """The same tokenizer as transformers loads it."""
    transformers = pytest.importorskip("transformers")
    folder.mkdir(exist_ok=True)
    for name, data in tokenizer.files.items():
        (folder / name).write_bytes(data)
    return transformers.AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def mistral(shared_data: Path) -> dict[str, Tokenizer]:
    folder, templates = shared_data / "tokenizer-mistral", {"v1": V1, "v3": V3}
    return {
        name: adopted(path=str(folder / f"tokenizer.model.{name}"), template=text) for name, text in templates.items()
    }


@pytest.fixture
def chat(shared_data: Path) -> list[dict[str, str]]:
    sample = json.loads((shared_data / "tokenizer-mistral/samples/no_tools/sample.json").read_text())
    return [{"role": turn["role"], "content": turn["content"]} for turn in sample["messages"]]


@pytest.mark.parametrize("name", ["v1", "v3"])
def test_a_chat_has_mistrals_ids_and_transformers_text(
    mistral: dict[str, Tokenizer], chat: list[dict[str, str]], shared_data: Path, tmp_path: Path, name: str
) -> None:
    own, folder = mistral[name], shared_data / "tokenizer-mistral/samples/no_tools"
    ids, text = rendered(own, chat)
    assert ids == json.loads((folder / f"tokens_{name}.json").read_text())["tokens"]
    spelt = {number: token for token, number in own._own.get_vocab().items()}
    assert "".join(spelt[number] for number in ids) == (folder / f"text_{name}.txt").read_text().strip()
    theirs = saved(own, tmp_path / name)
    assert theirs.apply_chat_template(chat, tokenize=False) == text
    assert theirs.apply_chat_template(chat, tokenize=True, return_dict=False) == ids
    assert ids.count(own.id_of("<s>")) == 1


def test_control_tokens_in_contents_stay_text(mistral: dict[str, Tokenizer], chat: list[dict[str, str]]) -> None:
    for own in mistral.values():
        marks = [token for token in own.control if not token.startswith("[control_")]
        assert marks
        for mark in marks:
            clean, _ = rendered(own, chat)
            foul, _ = rendered(own, [{**turn, "content": turn["content"] + mark} for turn in chat])
            kept = own.control_ids
            assert [one for one in foul if one in kept] == [one for one in clean if one in kept], mark


def test_a_real_vocabulary_of_gpt2_files(shared_data: Path) -> None:
    folder = shared_data / "tokenizer-gpt2"
    texts = (folder / "vectors.inp").read_text().split("\n__ggml_vocab_test__\n")
    expected = [[int(one) for one in line.split()] for line in (folder / "vectors.out").read_text().split("\n")]
    own = adopted(path=str(folder / "vocab.json"))
    assert own.encode(texts) == expected
    assert own.decode(expected) == texts
    assert (own.bos_token, own.eos_token, own.control) == ("<|endoftext|>", "<|endoftext|>", ("<|endoftext|>",))


def test_stories_from_its_sentencepiece_model_and_from_its_json(shared_data: Path) -> None:
    folder = shared_data / "model-stories260k/hf"
    texts = ["Once upon a time", " two  blanks ", "", "é 漢字 🎉\n", "<s> is text", "▁x"]
    one, other = (adopted(path=str(folder / name)) for name in ("tokenizer.model", "tokenizer.json"))
    assert one.encode(texts) == other.encode(texts)
    assert one.decode(one.encode(texts)) == [*texts[:5], " x"]
    greedy = json.loads((folder.parent / "greedy.json").read_text())
    assert one.decode([greedy["greedy_token_ids_from_bos"]]) == [greedy["text"]]


@pytest.mark.parametrize("name", ["model-stories260k/hf", "tokenizer-oasst-tiny"])
def test_one_content_has_one_identity(shared_data: Path, tmp_path: Path, name: str) -> None:
    place = shared_data / name
    first = apply(Adopt(path=str(place)), [], str(tmp_path / "first"))
    moved = shutil.copytree(place, tmp_path / "moved")
    (moved / "tokenizer.json").chmod(0o644)
    (moved / "tokenizer.json").write_text(json.dumps(json.loads((place / "tokenizer.json").read_text()), indent=7))
    second = apply(Adopt(path=str(moved), tokenizer_name="other name"), [], str(tmp_path / "second"))
    row = first.read().to_pylist()[0]
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    for file, text in files_of(row).items():
        (checkpoint / file).write_text(text)
    identities = {dataset_identity(first), dataset_identity(second), Adopt(path=str(place)).pinned().identity}
    identities |= {folder_identity(place), folder_identity(moved), folder_identity(checkpoint)}
    identities |= {Tokenizer.of_dataset(first).identity, Tokenizer.of_folder(str(checkpoint)).identity}
    assert len(identities) == 1
    assert Adopt(path=str(place), template="chatml").pinned().identity not in identities
    assert Adopt(path=str(place)).pinned() == Adopt(path=str(place)).pinned().pinned()
    assert "path" not in first.manifest.op["params"]


def folder_of(tmp_path: Path, change: Callable[[dict[str, Any]], object] | None = None, **files: Any) -> str:
    """A folder of the words, changed by `change`, with more files (JSON by name, dots as `__`)."""
    data = json.loads(WORDS.read_text())
    if change is not None:
        change(data)
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    for name, value in files.items():
        text = value if isinstance(value, str) else json.dumps(value)
        (tmp_path / name.replace("__", ".")).write_text(text)
    return str(tmp_path)


def test_what_a_hugging_face_folder_says(tmp_path: Path) -> None:
    added = {
        "4": {"content": "<tool>", "special": False, "normalized": False, "lstrip": True},
        "9": {"content": "<|end|>", "special": True, "normalized": False},
    }
    place = folder_of(
        tmp_path,
        tokenizer_config__json={
            "bos_token": {"content": "<|end|>"},
            "chat_template": "old",
            "added_tokens_decoder": added,
        },
        special_tokens_map__json={"bos_token": "w3", "pad_token": "w0"},
        chat_template__jinja="{{ messages }}",
        generation_config__json={"eos_token_id": [1, 9]},
    )
    own = adopted(path=place)
    assert (own.bos_token, own.eos_token, own.pad_token) == ("<|end|>", "</s>", "w0")
    assert own.chat_template == "{{ messages }}"
    assert (own.id_of("<tool>"), own.id_of("<|end|>"), own.size) == (4, 9, 10)
    assert own.decode([[4, 7, 9, 3, 500]], control=True) == ["<tool> <|end|> w3"], "ids without a token are nothing"
    pieces = pa.array([[{"text": "w2 <|end|>w3 ", "special": True, "trained": False}]], PIECES)
    assert own.encode_pieces(pieces).ids.tolist() == [2, 9, 3]
    assert own.encode(["w2 <|end|> w3", "w3 <tool>"]) == [[2, 0, 0, 3], [3, 4]], "a spelling is cut in two"


def test_no_special_tokens_at_all(tmp_path: Path) -> None:
    own = adopted(path=folder_of(tmp_path, lambda data: data.update(added_tokens=[])))
    assert (own.bos_token, own.eos_token, own.pad_token, own.control) == (None, None, None, ())
    row = [{"role": "user", "content": "w2"}, {"role": "assistant", "content": "w3"}]
    columns = Chat(template="{% for m in messages %}{{ bos_token + m['content'] + ' ' }}{% endfor %}").label(
        pa.table({"messages": pa.array([row], MESSAGES)}), Context(resources={"tokenizer": own})
    )
    assert own.encode_pieces(columns["pieces"]).ids.tolist() == [2, 3]


def test_there_is_exactly_one_opening_token(tmp_path: Path) -> None:
    """The file's own post-processor opens every text too; only templates open ours."""
    opening = {
        "type": "TemplateProcessing",
        "pair": [],
        "special_tokens": {"w2": {"id": "w2", "ids": [2], "tokens": ["w2"]}},
    }
    single = [{"SpecialToken": {"id": "w2", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    opening = {**opening, "single": single, "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}]}
    config = {"bos_token": "w2", "add_bos_token": True}
    place = folder_of(tmp_path, lambda data: data.update(post_processor=opening), tokenizer_config__json=config)
    for template, ids in (
        ("{{ bos_token }} {{ messages[0]['content'] }}", [2, 3]),
        ("{{ messages[0]['content'] }}", [3]),
    ):
        own = adopted(path=place, template=template)
        assert rendered(own, [{"role": "user", "content": "w3"}])[0] == ids
        theirs = saved(own, tmp_path / "theirs")
        assert theirs("w3")["input_ids"] == [2, 3], "a text of its own is opened once"
        asked = theirs.apply_chat_template([{"role": "user", "content": "w3"}], tokenize=True, return_dict=False)
        assert asked == ids
    plain = folder_of(tmp_path, tokenizer_config__json=config)
    assert folder_identity(plain) == identity_without_template(place, tmp_path), "it changes no id of ours"


def identity_without_template(place: str, tmp_path: Path) -> str:
    row = read_folder(place)
    assert row is not None
    return Tokenizer("x", **{**row, "chat_template": None}).identity


def test_ids_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    twice = {"added_tokens_decoder": {"3": {"content": "w2", "special": True}}}
    taken = {"added_tokens_decoder": {"3": {"content": "<new>", "special": True}}}
    for config in (twice, taken, {"added_tokens_decoder": {"x": 1}}):
        with pytest.raises(DataError):
            adopted(path=folder_of(tmp_path, tokenizer_config__json=config))
    gap = json.loads(WORDS.read_text())
    gap["added_tokens"].append({**gap["added_tokens"][0], "id": 40, "content": "<gap>"})
    with pytest.raises(DataError, match="does not keep its id"):
        Tokenizer("gap", json.dumps(gap))
    (tmp_path / "tokenizer_config.json").unlink()
    assert adopted(path=folder_of(tmp_path, lambda data: data.update(gap))).id_of("<gap>") == 40


def test_what_cannot_be_adopted_is_named(tmp_path: Path) -> None:
    for name, files, message in (
        ("none", {}, "no tokenizer at"),
        ("tekken", {"tekken.json": "{}"}, "tokenizer.json"),
        ("two", {"a.model": "", "b.model": ""}, "several"),
        ("code", {"tokenizer.json": WORDS.read_text(), "tokenizer_config.json": '{"auto_map": {}}'}, "auto_map"),
        (
            "class",
            {"vocab.json": "{}", "merges.txt": "", "tokenizer_config.json": '{"tokenizer_class": "Qwen"}'},
            "Qwen",
        ),
        ("eos", {"tokenizer.json": WORDS.read_text(), "tokenizer_config.json": '{"eos_token": "<x>"}'}, "have no id"),
        ("json", {"tokenizer.json": "[1]"}, "not a JSON object"),
        ("deep", {"tokenizer.json": "[" * 100000}, "not JSON"),
        ("empty", {"tokenizer.json": "{}"}, "not a tokenizer"),
        ("merges", {"vocab.json": '{"a": 0, "b": 1}', "merges.txt": "#version: 0.2\na b\n"}, "merges.txt joins"),
    ):
        (tmp_path / name).mkdir()
        for file, text in files.items():
            (tmp_path / name / file).write_text(text)
        with pytest.raises((ConfigError, DataError)) as caught:
            adopted(path=str(tmp_path / name))
        assert message in caught.value.render(), name
    with pytest.raises(ConfigError, match="no file"):
        adopted(path=str(tmp_path / "nowhere.json"))
    with pytest.raises(ConfigError, match="names no path"):
        Adopt()


def test_files_that_changed_since_they_were_named(tmp_path: Path) -> None:
    place = folder_of(tmp_path)
    pinned = Adopt(path=place).pinned()
    folder_of(tmp_path, tokenizer_config__json={"eos_token": "w3"})
    with pytest.raises(IntegrityError, match="source-changed"):
        list(pinned.read(Context()))
    folder_of(tmp_path, tokenizer_config__json={})
    assert dataclasses.replace(pinned, digests=()).pinned().identity == pinned.identity
