"""Where turns end: by hand, for templates of every kind; what is learnt of it, and what is said where nothing is."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from datakit.apply import apply
from datakit.clients import Sampling
from datakit.columns.learnt_ends import WITHOUT_END
from datakit.generate import Complete
from datakit.op import Context
from datakit.run.resource import Resource
from datakit.template import Chat, Rendering
from datakit.templating.named import TEMPLATES
from datakit.templating.ops import renderer_of
from datakit.tokenize import Encode, Mask
from schemas import MESSAGES, PROMPTS, Column, Schema
from schemas.dataset import Attempt, Dataset
from schemas.end_tokens import TurnEnd
from tests.datakit.fakes import ADDED, BOS, END, EOS, USER, EchoGenerator, letters
from tests.datakit.template.test_chat import chat, table, trained

_TURN = "{% for m in messages %}{{ '<user>' if m.role == 'user' else '<bot>' }}"
_OPEN = "{% endfor %}{% if add_generation_prompt %}<bot>{% endif %}"
THINKS = (
    "{% set ns = namespace(last=-1) %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}{{ '<user>' if m.role == 'user' else '<bot>' }}"
    "{% if m.role != 'user' and loop.index0 > ns.last %}[think][/think]{% endif %}{{ m.content }}<end>\n"
    "{% endfor %}{% if add_generation_prompt %}<bot>{% endif %}"
)
LAST_DIFFERS = (
    _TURN + "{{ m.content }}{% if m.role != 'user' and loop.last %}{{ eos_token }}{% else %}<end>{% endif %}" + _OPEN
)
ENDS_TWICE = (
    "{{ bos_token }}" + _TURN + "{{ m.content }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<bot>{% else %}{{ eos_token }}{% endif %}"
)
BLOCK_WITHOUT_END = (
    _TURN + "{% if m.role == 'user' %}{{ m.content }}{% else %}"
    "{% generation %}{{ m.content }}{% endgeneration %}{% endif %}<end>" + _OPEN
)
BLOCK_WITH_END = BLOCK_WITHOUT_END.replace("{% endgeneration %}{% endif %}<end>", "<end>{% endgeneration %}{% endif %}")
NO_END = _TURN + "{{ m.content }}" + _OPEN
PLAIN_TEXT = (
    "{% for m in messages %}{{ '\n\nUser: ' if m.role == 'user' else '\n\nBot: ' }}{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\n\nBot: ' }}{% endif %}"
)
CLOSED_BY_TEXT = PLAIN_TEXT.replace("{{ m.content }}", "{{ m.content }}\n## done\n")
QUOTED = PLAIN_TEXT.replace("{{ m.content }}", "'{{ m.content }}'")

ENDINGS = {
    "thinks": (THINKS, TurnEnd((END,)), ["<user>q<end>\n<bot>⟦a<end>⟧\n<user>r<end>\n<bot>⟦[think][/think]b<end>⟧\n"]),
    "last differs": (LAST_DIFFERS, TurnEnd((EOS, END)), ["<user>q<end><bot>⟦a<end>⟧<user>r<end><bot>⟦b<eos>⟧"]),
    "ends twice": (
        ENDS_TWICE,
        TurnEnd((END,)),
        ["<bos><user>q<end>\n<bot>⟦a<end>⟧\n<user>r<end>\n<bot>⟦b<end>⟧\n<eos>"],
    ),
    "block": (BLOCK_WITHOUT_END, TurnEnd((END,)), ["<user>q<end><bot>⟦a<end>⟧<user>r<end><bot>⟦b<end>⟧"]),
    "block with end": (BLOCK_WITH_END, TurnEnd((END,)), ["<user>q<bot>⟦a<end>⟧<user>r<bot>⟦b<end>⟧"]),
    "no end": (NO_END, TurnEnd((), (USER,)), ["<user>q<bot>⟦a⟧<user>r<bot>⟦b⟧"]),
    "plain text": (
        PLAIN_TEXT,
        TurnEnd((), ("\n\nUser:",)),
        ["\n\nUser: q\n\nBot: ⟦a⟧\n\nUser: r\n\nBot: ⟦b⟧"],
    ),
    "closed by text": (
        CLOSED_BY_TEXT,
        TurnEnd((), ("\n## done",)),
        ["\n\nUser: q\n## done\n\n\nBot: ⟦a\n## done\n⟧\n\nUser: r\n## done\n\n\nBot: ⟦b\n## done\n⟧"],
    ),
    "quoted": (QUOTED, TurnEnd((), ("'\n\nUser: '",)), ["\n\nUser: 'q'\n\nBot: ⟦'a'⟧\n\nUser: 'r'\n\nBot: ⟦'b'⟧"]),
    "text": (TEMPLATES["text"], TurnEnd((EOS,)), ["<bos>qar⟦b<eos>⟧", "<bos>q⟦a⟧r⟦b<eos>⟧"]),
    "plain": (
        TEMPLATES["plain"],
        TurnEnd((EOS,)),
        ["<bos><|user|>q<eos><|assistant|>⟦a<eos>⟧<|user|>r<eos><|assistant|>⟦b<eos>⟧"],
    ),
}


def context() -> Context:
    own = SimpleNamespace(bos_token=BOS, eos_token=EOS, pad_token=None, chat_template=None, added=ADDED)
    return Context(resources={"tokenizer": own})


@pytest.mark.parametrize("name", ENDINGS)
def test_every_turn_is_learnt_with_its_end(name: str) -> None:
    template, end, texts = ENDINGS[name]
    assert renderer_of(Rendering(template=template), context()).turn_end == end
    columns: Any = Chat(template=template).label(table(chat("q", "a", "r", "b")), context())
    assert trained(columns["pieces"].to_pylist()[0]) == texts[-1]
    if len(texts) == 1:
        last: Any = Chat(template=template, learn="last").label(table(chat("q", "a", "r", "b")), context())
        before, _, after = texts[0].rpartition("⟦")
        assert trained(last["pieces"].to_pylist()[0]) == before.replace("⟦", "").replace("⟧", "") + "⟦" + after


def test_an_empty_answer_ends_too_and_a_tool_call_is_part_of_the_turn() -> None:
    columns: Any = Chat(template=THINKS).label(table(chat("q", "", "r", "b")), context())
    assert trained(columns["pieces"].to_pylist()[0]).startswith("<user>q<end>\n<bot>⟦<end>⟧\n")
    calls = THINKS.replace("{{ m.content }}", "{{ m.content }}{{ '<call>f<call>' if loop.index0 == 3 }}")
    columns = Chat(template=calls).label(table(chat("q", "a", "r", "b")), context())
    assert trained(columns["pieces"].to_pylist()[0]).endswith("<bot>⟦[think][/think]b<call>f<call><end>⟧\n")
    refuses = "{{ raise_exception('never') }}"
    assert renderer_of(Rendering(template=refuses), context()).turn_end == TurnEnd()


ROWS = Schema(
    "rows", 1, (Column("sample_id", pa.string(), "id"), Column("messages", MESSAGES, "turns")), key=("sample_id",)
)


def written(url: Path, schema: Schema, rows: pa.Table) -> Dataset:
    with Attempt.begin(str(url), schema) as attempt:
        writer = attempt.shard(0)
        writer.write(schema.conform(rows))
        return attempt.commit([writer.finish()])


def rows(folder: Path, *chats: list[dict[str, str]]) -> Dataset:
    columns = {"sample_id": [str(number) for number in range(len(chats))]}
    return written(folder / "rows", ROWS, pa.table({**columns, "messages": pa.array(list(chats), MESSAGES)}))


@pytest.mark.parametrize(("name", "share"), [("thinks", 0), ("block", 0), ("closed by text", 0), ("no end", 1)])
def test_rows_that_teach_no_end_are_counted_and_told_once(tmp_path: Path, name: str, share: int) -> None:
    resources = {"tokenizer": Resource("letters", functools.partial(letters, ENDINGS[name][0]))}
    given = rows(tmp_path, chat("q", "a", "r", "b"), chat("q", "a"), chat("q", ""))
    chats, mask = Chat(), Mask()
    texts = apply(chats, given, str(tmp_path / "texts"), resources=resources, max_rejected=5)
    tokens = apply(mask, texts, str(tmp_path / "tokens"), resources=resources)
    assert TurnEnd.of(tokens.facts) == ENDINGS[name][1], "it goes on from table to table"
    lines = [line for line in chats.notes(texts.manifest) if "end token" in line]
    assert texts.stats["counts"][WITHOUT_END] == share * texts.num_rows
    assert tokens.stats["counts"][WITHOUT_END] == share * tokens.num_rows
    assert len(lines) == len(mask.notes(tokens.manifest)) == share
    assert not share or "3 of 3 rows (100%)" in lines[0]
    assert not share or "append_eos" in lines[0]
    ended = apply(Mask(append_eos=True), texts, str(tmp_path / "ended"), resources=resources)
    assert not Mask(append_eos=True).notes(ended.manifest)


class Stops(EchoGenerator):
    """Writes down the stop texts that it is asked with."""

    def generate(self, rows: pa.Table, sampling: Sampling, seeds: Any) -> pa.Table:
        Path(self.log + ".stop").write_text(json.dumps(sampling.stop))
        return super().generate(rows, sampling, seeds)


@pytest.mark.parametrize(
    ("name", "stop"), [("thinks", [END]), ("plain text", ["\n\nUser:"]), ("last differs", [EOS, END])]
)
def test_every_generator_is_asked_to_end_where_the_template_does(tmp_path: Path, name: str, stop: list[str]) -> None:
    template, end, _ = ENDINGS[name]
    resources = {"tokenizer": Resource("letters", functools.partial(letters, template))}
    prompts = written(tmp_path / "prompts", PROMPTS, PROMPTS.example(2))
    chats = Chat(generation=True)
    texts = apply(chats, prompts, str(tmp_path / "texts"), resources=resources, max_rejected=2)
    assert TurnEnd.of(texts.facts) == end
    assert any("User:" in line for line in chats.notes(texts.manifest)) == bool(end.texts), "a text is noted"
    encode = Encode(columns=(("pieces", "prompt_ids"),))
    tokens = apply(encode, texts, str(tmp_path / "tokens"), resources=resources)
    answers = Resource("stops", functools.partial(Stops, log=str(tmp_path / "log")))
    sampling = Sampling(stop=("enough",))
    apply(Complete(sampling=sampling), tokens, str(tmp_path / "samples"), resources={"generator": answers})
    assert json.loads((tmp_path / "log.stop").read_text()) == ["enough", *stop]
