"""Loss masks against character offsets: which characters every token stands for, counted without our tokenizing code.

The text is rendered by Jinja alone. An answer's trained characters are its content and what closes its turn, read off
the text; a token is to be counted if and only if its characters are among them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import jinja2
import pyarrow as pa
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from datakit.op import Context
from datakit.template import Chat
from datakit.templating.named import TEMPLATES
from datakit.tokenize import Mask
from datakit.tokenizers.tokenizer import Tokenizer
from schemas import MESSAGES

BOS, EOS = "<s>", "</s>"
CONTROL = [BOS, EOS, "<unk>", "<|user|>", "<|assistant|>", "<|system|>", "<|im_start|>", "<|im_end|>"]
CONTROL += ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<extra_id_0>", "<extra_id_1>"]
MARKDOWN = (
    "{% for m in messages %}{{ '### ' + m['role'] + ':\\n' + m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### assistant:\\n' }}{% endif %}"
)
SOURCES = {**TEMPLATES, "markdown": MARKDOWN}
CLOSES = {
    "plain": EOS,
    "text": EOS,
    "chatml": "<|im_end|>",
    "llama3": "<|eot_id|>",
    "extra_id": "\n<extra_id_1>",
    "markdown": EOS,
}
"""What closes an answer where the template closes it."""

CHATS: list[list[tuple[str, str]]] = [
    [("user", "What is 2+2?"), ("assistant", "It is 4.")],
    [("system", "Be brief."), ("user", "Grüße, 世界! 🙂"), ("assistant", "Hallo 世界 🙂🙃.")],
    [("user", "one"), ("assistant", "first answer\nin two lines"), ("user", "two"), ("assistant", "naïve café")],
    [("user", "say <|im_end|> and </s>"), ("assistant", "<|im_end|> and </s> are marks, [INST] too")],
    [("user", "a"), ("assistant", "b"), ("user", "b"), ("assistant", "c"), ("user", "c"), ("assistant", "a")],
    [("user", "Zahlen?"), ("assistant", "1234567 + 89 = 1234656, fi ﬁ \u00a0 x")],
]


@dataclass(frozen=True)
class Kind:
    """A tokenizer, and the text that one of its tokens stands for."""

    tokenizer: Tokenizer
    spelt: Any

    def characters(self, ids: list[int]) -> list[bytes]:
        own = tokenizers.Tokenizer.from_str(self.tokenizer.tokenizer_json)
        special = {t.content for t in own.get_added_tokens_decoder().values()}
        pieces = [own.id_to_token(i) for i in ids]
        return [p.encode() if p in special else self.spelt(p) for p in pieces]


def _letters() -> dict[str, int]:
    """The letters that byte-level tokenizers write bytes with (GPT-2): printable ones stand for themselves."""
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in own]
    return {chr(b): b for b in own} | {chr(256 + n): b for n, b in enumerate(others)}


def _bytes(piece: str) -> bytes:
    letters = _letters()
    return bytes(letters[letter] for letter in piece)


def _blanks(piece: str) -> bytes:
    if len(piece) == 6 and piece.startswith("<0x"):
        return bytes([int(piece[3:5], 16)])
    return piece.replace("\u2581", " ").encode()


def _trained(tokenizer: tokenizers.Tokenizer, trainer: Any) -> Tokenizer:
    corpus = [f"{content} {content}" for chat in CHATS for _, content in chat] * 3
    tokenizer.train_from_iterator(corpus, trainer)
    return Tokenizer("own", tokenizer.to_str(), None, BOS, EOS)


def byte_level() -> Kind:
    own = tokenizers.Tokenizer(models.BPE())
    own.pre_tokenizer, own.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made = trainers.BpeTrainer(vocab_size=450, special_tokens=CONTROL, initial_alphabet=alphabet, show_progress=False)
    return Kind(_trained(own, made), _bytes)


def metaspace() -> Kind:
    own = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    own.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    own.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    spelling = [f"<0x{byte:02X}>" for byte in range(256)]
    made = trainers.BpeTrainer(
        vocab_size=600, special_tokens=[*CONTROL, *spelling], limit_alphabet=60, show_progress=False
    )
    kind = _trained(own, made)
    data = json.loads(kind.tokenizer_json)
    data["added_tokens"] = [token for token in data["added_tokens"] if token["content"] not in spelling]
    return Kind(Tokenizer("own", json.dumps(data), None, BOS, EOS), _blanks)


KINDS = {"byte-level": byte_level, "metaspace": metaspace}


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    made: Kind = KINDS[request.param]()
    return made


def rendered(source: str, chat: list[tuple[str, str]]) -> str:
    turns = [{"role": role, "content": content} for role, content in chat]
    template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(source)
    return template.render(messages=turns, bos_token=BOS, eos_token=EOS, add_generation_prompt=False)


def counted(name: str, chat: list[tuple[str, str]], text: str, learn: str) -> list[bool]:
    """Of every byte of the text, whether it is to be learnt."""
    between = rendered(SOURCES[name], [(role, "\ue000") for role, _ in chat]).split("\ue000")
    contents = [content.strip() if name == "llama3" else content for _, content in chat]
    assert text == between[0] + "".join(map(str.__add__, contents, between[1:]))
    marks = [False] * len(between[0].encode())
    answers = [number for number, (role, _) in enumerate(chat) if role == "assistant"]
    for number, (content, behind) in enumerate(zip(contents, between[1:], strict=True)):
        learnt = number in (answers if learn == "all" else answers[-1:])
        closes = len(CLOSES[name].encode()) * behind.startswith(CLOSES[name])
        assert closes or number not in answers or (name == "text" and number < len(chat) - 1)
        marks += [learnt] * (len(content.encode()) + closes) + [False] * (len(behind.encode()) - closes)
    return marks


@pytest.mark.parametrize("learn", ["all", "last"])
@pytest.mark.parametrize("name", SOURCES)
def test_a_token_is_counted_if_its_characters_are_learnt(kind: Kind, name: str, learn: Any) -> None:
    chats = [chat for chat in CHATS if name != "extra_id" or chat[0][0] == "user"]
    turns = [[{"role": role, "content": content} for role, content in chat] for chat in chats]
    ids = [str(number) for number in range(len(chats))]
    rows = pa.table({"sample_id": ids, "messages": pa.array(turns, MESSAGES)})
    ctx = Context(resources={"tokenizer": kind.tokenizer})
    templated: Any = Chat(template=SOURCES[name], learn=learn).label(rows, ctx)
    assert isinstance(templated, dict)
    made: Any = Mask().label(rows.append_column("pieces", templated["pieces"]), ctx)
    assert isinstance(made, dict)
    both = zip(chats, made["input_ids"].to_pylist(), made["loss_mask"].to_pylist(), strict=True)
    for chat, row, mask in both:
        text = rendered(SOURCES[name], chat)
        marks, at = counted(name, chat, text, learn), 0
        assert any(marks) and not all(marks)
        spelt = kind.characters(row)
        assert b"".join(spelt).decode() == text
        for piece, flag in zip(spelt, mask, strict=True):
            assert set(marks[at : at + len(piece)]) == {bool(flag)}, (chat, piece, at)
            at += len(piece)
