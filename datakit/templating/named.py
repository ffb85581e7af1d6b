r"""Chat templates by name.

plain     <bos><|user|>question<|end|><|assistant|>answer<eos>   one token a mark: short rows for small models
text      <bos>question answer<eos>                               no marks: the answer goes on where the question ends
chatml    <|im_start|>role\ncontent<|im_end|>\n
llama3    <|start_header_id|>role<|end_header_id|>\n\ncontent<|eot_id|>, contents stripped
extra_id  NeMo-Aligner's: a System header always; the turn start behind an answer is the stop sign, and is learnt
"""

from __future__ import annotations

from collections.abc import Mapping

from schemas.rows.chats import SYSTEM_MARK, TURN_MARK

TURN_MARKS = ("<|system|>", "<|user|>", "<|assistant|>", "<|tool|>")
"""The marks of `plain`; `tokenize.train` makes a token of each."""

_PLAIN = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

_TEXT = (
    "{{ bos_token }}{% for message in messages %}{{ message['content'] }}{% endfor %}"
    "{% if messages and messages[-1]['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
)

_CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

_LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}"
    "{{ message['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)


def extra_id(
    system_turn_start: str = SYSTEM_MARK,
    turn_start: str = TURN_MARK,
    end_of_turn: str = "\n",
    end_of_name: str = "\n",
) -> str:
    """The source of NeMo-Aligner's template with these of its `chat_prompt_tokens`."""
    system, turn, close, name = map(_quoted, (system_turn_start, turn_start, end_of_turn, end_of_name))
    return (
        "{% if messages and messages[0]['role'] == 'system' %}"
        f"{{{{ '{system}System{name}' + messages[0]['content'] + '{close}' }}}}{{% set turns = messages[1:] %}}"
        f"{{% else %}}{{{{ '{system}System{name}{close}' }}}}{{% set turns = messages %}}{{% endif %}}"
        "{% for message in turns %}"
        f"{{{{ '{turn}' + message['role'] | capitalize + '{name}' + message['content'] + '{close}' }}}}"
        "{% endfor %}"
        f"{{% if add_generation_prompt %}}{{{{ '{turn}Assistant{name}' }}}}"
        f"{{% elif turns and turns[-1]['role'] == 'assistant' %}}{{{{ '{turn}' }}}}{{% endif %}}"
    )


def _quoted(text: str) -> str:
    """`text` inside one of Jinja's strings."""
    return text.encode("unicode_escape").decode().replace("'", "\\'")


TEMPLATES: Mapping[str, str] = {
    "plain": _PLAIN,
    "text": _TEXT,
    "chatml": _CHATML,
    "llama3": _LLAMA3,
    "extra_id": extra_id(),
}
"""Name -> Jinja source."""
