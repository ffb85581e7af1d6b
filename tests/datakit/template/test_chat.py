"""Templates: texts equal Hugging Face's, contents stay contents, masks by hand, and what no template may
do."""

from __future__ import annotations

import itertools
from functools import partial
from types import SimpleNamespace

import pyarrow as pa
import pytest

from datakit.op import Context, LabelResult
from datakit.template import Chat, RewardPrompt
from datakit.templating import render
from datakit.templating.named import TEMPLATES
from datakit.templating.sandbox import SECONDS, Sandbox
from schemas import MESSAGES
from schemas.errors import ConfigError, DataError
from tests.datakit.fakes import PROMPTS, Example, tokenizer

EXAMPLES = [
    Example(Chat(), (PROMPTS.example(12),), tokenizer()),
    Example(Chat(generation=True, template="chatml"), (PROMPTS.example(12),), tokenizer()),
]


QWEN3_LIKE = (
    "{%- for message in messages %}"
    "{%- set content = message.content %}"
    "{%- if message.role == 'assistant' and '</think>' in content %}"
    "{%- set content = content.split('</think>')[-1].lstrip('\\n') %}{%- endif %}"
    "{{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
MISTRAL_LIKE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
)
MARKED = (
    "{% for message in messages %}{{ '<' + message.role + '>' }}"
    "{% if message.role == 'assistant' %}{% generation %}{{ message.content }}<end>{% endgeneration %}"
    "{% else %}{{ message.content }}<end>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def chat(*turns: str, system: str | None = None) -> list[dict[str, str]]:
    roles = itertools.cycle(["user", "assistant"])
    head = [] if system is None else [{"role": "system", "content": system}]
    return head + [{"role": next(roles), "content": text} for text in turns]


CHATS = [
    chat("q"),
    chat(" q \n", "  a"),
    chat("q", "a", "q2", "a2\n\n"),
    chat("q", "a", system="be brief"),
    chat("q", "a", system=""),
    chat("", "a", "{{ 7 * 7 }}{% raw %}", "\ue0000\ue001 <|im_end|>"),
    chat('q "quoted" & <b>', "é 漢字 🙂 \\n", "x" * 5000),
]


def context(template: str | None = None) -> Context:
    own = SimpleNamespace(bos_token="<s>", eos_token="</s>", pad_token=None, chat_template=template)
    return Context(resources={"tokenizer": own})


def table(*rows: list[dict[str, str]]) -> pa.Table:
    return pa.table({"messages": pa.array(list(rows), MESSAGES)})


def label(op: Chat, *rows: list[dict[str, str]], own: str | None = None) -> dict:
    columns = op.label(table(*rows), context(own))
    assert not isinstance(columns, LabelResult), columns.kept.reason
    return {name: column.to_pylist() for name, column in columns.items()}


def trained(pieces: list[dict]) -> str:
    """The text with `[...]` around what is learnt."""
    groups = itertools.groupby(pieces, key=lambda piece: piece["trained"])
    texts = ((flag, "".join(piece["text"] for piece in group)) for flag, group in groups)
    return "".join(f"⟦{text}⟧" if flag else text for flag, text in texts)


@pytest.mark.parametrize("generation", [False, True])
@pytest.mark.parametrize("template", [*TEMPLATES, QWEN3_LIKE, MISTRAL_LIKE, MARKED], ids=lambda text: text[:12])
def test_texts_equal_those_of_hugging_face(template: str, generation: bool) -> None:
    render = pytest.importorskip("transformers.utils.chat_template_utils").render_jinja_template
    source = TEMPLATES.get(template, template)
    chats = [one for one in CHATS if template is not MISTRAL_LIKE or one[0]["role"] == "user"]
    done = label(Chat(template=template, generation=generation), *chats)
    names = {"bos_token": "<s>", "eos_token": "</s>"}
    expected, _ = render(
        conversations=chats, chat_template=source, add_generation_prompt=generation, **names, pad_token=""
    )
    texts = done["prompt" if generation else "text"]
    assert texts == expected
    assert ["".join(piece["text"] for piece in row) for row in done["pieces"]] == texts


@pytest.mark.parametrize("template", [*TEMPLATES, QWEN3_LIKE, MISTRAL_LIKE, MARKED], ids=lambda text: text[:12])
def test_contents_are_never_special_and_everything_else_is(template: str) -> None:
    marks = [
        "<|im_end|>",
        "<|im_start|>system\n",
        "</s>",
        "<s>",
        "[/INST]",
        "<extra_id_1>",
        "<|user|>",
        "<|eot_id|>",
    ]
    for mark in marks:
        row = chat(f"a{mark}b", f"c{mark}d", f"e{mark}f")
        pieces = label(Chat(template=template), row)["pieces"][0]
        assert [piece["text"] for piece in pieces if not piece["special"]] == [turn["content"] for turn in row]


MASKS = {
    "plain": "<s><|user|>q</s><|assistant|>⟦a</s>⟧<|user|>r</s><|assistant|>⟦b</s>⟧",
    "chatml": "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n⟦a<|im_end|>\n⟧"
    "<|im_start|>user\nr<|im_end|>\n<|im_start|>assistant\n⟦b<|im_end|>\n⟧",
    "llama3": "<s><|start_header_id|>user<|end_header_id|>\n\nq<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n⟦a<|eot_id|>⟧"
    "<|start_header_id|>user<|end_header_id|>\n\nr<|eot_id|><|start_header_id|>assistant<|end_header_id|>"
    "\n\n⟦b<|eot_id|>⟧",
    "extra_id": "<extra_id_0>System\n\n<extra_id_1>User\nq\n<extra_id_1>Assistant\n⟦a\n<extra_id_1>⟧User\nr\n"
    "<extra_id_1>Assistant\n⟦b\n<extra_id_1>⟧",
    MISTRAL_LIKE: "<s>[INST] q [/INST]⟦ a</s>⟧[INST] r [/INST]⟦ b</s>⟧",
    MARKED: "<user>q<end><assistant>⟦a<end>⟧<user>r<end><assistant>⟦b<end>⟧",
}


@pytest.mark.parametrize("template", MASKS, ids=lambda text: text[:12])
def test_what_is_learnt_by_hand(template: str) -> None:
    expected = MASKS[template]
    assert trained(label(Chat(template=template), chat("q", "a", "r", "b"))["pieces"][0]) == expected
    last = label(Chat(template=template, learn="last"), chat("q", "a", "r", "b"))["pieces"][0]
    before, _, after = expected.rpartition("⟦")
    assert trained(last) == before.replace("⟦", "").replace("⟧", "") + "⟦" + after


def test_a_response_column_is_the_last_turn() -> None:
    rows = table(chat("q")).append_column("response", pa.array(["a"]))
    columns = Chat(template="plain", response="response").label(rows, context())
    assert trained(columns["pieces"].to_pylist()[0]) == "<s><|user|>q</s><|assistant|>⟦a</s>⟧"


def test_a_prompt_learns_nothing_and_is_how_the_whole_text_begins() -> None:
    for template in (*TEMPLATES, QWEN3_LIKE, MISTRAL_LIKE):
        prompt = label(Chat(template=template, generation=True), chat("q", "a", "r"))
        whole = label(Chat(template=template), chat("q", "a", "r", "b"))["text"][0]
        assert whole.startswith(prompt["prompt"][0])
        assert not any(piece["trained"] for piece in prompt["pieces"][0])


def test_the_tokenizers_own_template_is_the_default() -> None:
    assert label(Chat(), chat("q"), own="{{ messages[0].content }}!")["text"] == ["q!"]
    with pytest.raises(ConfigError, match="no chat template"):
        Chat().label(table(chat("q")), context())


def test_nemo_aligner_templating_vectors() -> None:
    prompt = label(Chat(template="extra_id", generation=True), chat("u"), chat("u", "a", "v"))["prompt"]
    first = "<extra_id_0>System\n\n<extra_id_1>User\nu\n<extra_id_1>Assistant\n"
    assert prompt == [first, first + "a\n<extra_id_1>User\nv\n<extra_id_1>Assistant\n"]


def reasons(template: str, *rows: list[dict[str, str]]) -> list[str]:
    labels = Chat(template=template).label(table(*rows), context())
    assert isinstance(labels, LabelResult), "all rows were kept"
    pairs = zip(labels.kept.keep.to_pylist(), labels.kept.reason.to_pylist(), strict=True)
    return ["" if keep else reason for keep, reason in pairs]


def test_rows_that_a_template_alters_or_refuses_are_rejected_and_no_others() -> None:
    empty = chat("q", "<think>x</think>", "r")
    assert reasons(QWEN3_LIKE, chat("q", "a"), empty) == ["", "template-alters-contents"]
    assert reasons(MISTRAL_LIKE, chat("q"), chat("q", system="s")) == ["", "template-failed"]
    shout = "{% for m in messages %}{{ m.content | upper }}{% endfor %}"
    assert reasons(shout, chat("q"), chat("Q!")) == ["template-alters-contents"] * 2
    drops = "{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}"
    assert reasons(drops, chat("q", system="s")) == ["template-alters-contents"]
    hidden = "{% for m in messages %}{{ ('>' ~ m.content).replace('secret', '') }}{% endfor %}"
    assert reasons(hidden, chat("secret")) == ["template-alters-contents"]
    odd = [{"role": "<|im_start|>", "content": "a"}]
    assert reasons("chatml", chat("q"), odd) == ["", "unknown-role"]


HOSTILE = {
    "class walk": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "self": "{{ self.__init__.__globals__ }}",
    "format": "{{ '{0.__class__}'.format(messages) }}",
    "attr": "{{ messages | attr('__class__') }}",
    "import": "{% import 'os' as os %}{{ os }}",
    "include": "{% include '/etc/passwd' %}",
    "mutation": "{{ messages.append(1) }}",
    "two loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "memory": "{{ 'a' * 10 ** 10 }}",
    "doubling": "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "padding": "{{ '%2000000000d' % 1 }}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "output": "{% for i in range(99999) %}{{ 'aaaaaaaaaaaaaaaaaaaa' }}{% endfor %}",
    "syntax": "{% for",
    "date": "{{ strftime_now('%Y') }}",
    "filter": "{{ messages | nosuch }}",
    "undefined": "{{ nothing.at.all }}",
}


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A conversation has a fifth of the processor time that a user's has."""
    monkeypatch.setattr(render, "Sandbox", partial(Sandbox, seconds=SECONDS / 5))


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("template", HOSTILE.values(), ids=HOSTILE)
def test_hostile_templates_end_in_an_error_and_nothing_else(template: str) -> None:
    slug = ""
    try:
        labels = Chat(template=template).label(table(chat("q")), context())
    except (DataError, ConfigError) as error:
        slug = error.slug
    if not slug:
        assert isinstance(labels, LabelResult), labels
        assert labels.kept.keep.to_pylist() == [False]
        slug = labels.kept.reason.to_pylist()[0]
    assert slug.startswith("template-")


@pytest.mark.usefixtures("impatient")
def test_after_a_limit_the_next_template_works() -> None:
    with pytest.raises(DataError):
        Chat(template=HOSTILE["two loops"]).label(table(chat("q")), context())
    assert label(Chat(template="plain"), chat("q"))["text"] == ["<s><|user|>q</s>"]


def test_the_date_is_a_setting() -> None:
    template = "{{ strftime_now('%d %b %Y') }} {{ messages[0].content }}"
    assert label(Chat(template=template, date="2024-07-26"), chat("q"))["text"] == ["26 Jul 2024 q"]


def test_a_date_that_is_missing_or_is_none_is_a_setting_and_no_row() -> None:
    with pytest.raises(ConfigError, match="--date 2025-01-31") as fault:
        Chat(template=HOSTILE["date"]).label(table(chat("q")), context())
    assert (fault.value.slug, fault.value.code) == ("template-date", 2)
    for date in ("2025-02-29", "20250101", "2025-1-1", "tomorrow", "2025-01-01T00:00"):
        with pytest.raises(ConfigError, match="is not a date") as fault:
            Chat.of({"date": date})
        assert (fault.value.slug, fault.value.code) == ("bad-setting", 2)


def test_options_are_what_hugging_face_hands_to_a_template() -> None:
    source = (
        "{{ messages[0].content }}{% if think is defined and think is false %} /no{% endif %}{{ n }}"
        "{% for name in names %}[{{ name.first }}]{% endfor %}{{ bos_token }}"
    )
    options = {"think": False, "n": 3, "names": [{"first": "é"}, {"first": "b"}], "bos_token": "<B>"}
    render = pytest.importorskip("transformers.utils.chat_template_utils").render_jinja_template
    expected, _ = render(conversations=[chat("q")], chat_template=source, **options)
    assert expected == ["q /no3[é][b]<B>"]
    assert label(Chat(template=source, options=options), chat("q"))["text"] == expected
    assert label(Chat(template=source), chat("q"))["text"] == ["q<s>"]


def test_options_are_part_of_the_identity_and_are_json() -> None:
    one, other = Chat(options={"a": 1, "b": [2.5]}), Chat(options={"b": [2.5], "a": 1})
    assert one.to_json() == other.to_json() != Chat().to_json()
    assert RewardPrompt.of({"options": {"a": None}}).rendering.options == {"a": None}
    for options in ({"messages": []}, {"tools": 1}, {"not a name": 1}, {"x": float("nan")}, {"x": object()}):
        with pytest.raises(ConfigError, match="template options"):
            Chat(options=options)


def test_reward_prompts_of_samples_and_preferences() -> None:
    rows = table(chat("q", system="s"))
    for name, text in (("response", "a"), ("chosen", "good"), ("rejected", "bad")):
        rows = rows.append_column(name, pa.array([text]))
    one = RewardPrompt(template="extra_id").label(rows, context())
    head = "<extra_id_0>System\ns\n<extra_id_1>User\nq\n<extra_id_1>Assistant\n"
    assert one["reward_text"].to_pylist() == [head + "a\n<extra_id_1>"]
    assert trained(one["reward_pieces"].to_pylist()[0]) == head + "⟦a\n<extra_id_1>⟧"
    pair = RewardPrompt(template="extra_id", rows="preferences").label(rows, context())
    assert pair["chosen_text"].to_pylist() == [head + "good\n<extra_id_1>"]
    assert pair["rejected_text"].to_pylist() == [head + "bad\n<extra_id_1>"]


def test_wrong_settings_are_named() -> None:
    with pytest.raises(ConfigError, match="did you mean chatml"):
        Chat(template="chatlm")
    with pytest.raises(ConfigError, match="no response"):
        Chat(template="plain", generation=True, response="response")


def test_no_rows() -> None:
    assert label(Chat(template="plain")) == {"pieces": [], "text": []}
