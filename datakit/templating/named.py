r"""Chat templates by name.

plain     <bos><|user|>question<|end|><|assistant|>answer<eos>   one token a mark: short rows for small models
text      <bos>question answer<eos>                               no marks: the answer goes on where the question ends
chatml    <|im_start|>role\ncontent<|im_end|>\n
llama3    <|start_header_id|>role<|end_header_id|>\n\ncontent<|eot_id|>, contents stripped
extra_id  NeMo-Aligner's: a System header always; the turn start behind an answer is the stop sign, and is learnt
"""

from __future__ import annotations

from collections.abc import Mapping

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

_EXTRA_ID = (
    "{% if messages and messages[0]['role'] == 'system' %}"
    "{{ '<extra_id_0>System\\n' + messages[0]['content'] + '\\n' }}{% set turns = messages[1:] %}"
    "{% else %}{{ '<extra_id_0>System\\n\\n' }}{% set turns = messages %}{% endif %}"
    "{% for message in turns %}"
    "{{ '<extra_id_1>' + message['role'] | capitalize + '\\n' + message['content'] + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<extra_id_1>Assistant\\n' }}"
    "{% elif turns and turns[-1]['role'] == 'assistant' %}{{ '<extra_id_1>' }}{% endif %}"
)

TEMPLATES: Mapping[str, str] = {
    "plain": _PLAIN,
    "text": _TEXT,
    "chatml": _CHATML,
    "llama3": _LLAMA3,
    "extra_id": _EXTRA_ID,
}
"""Name -> Jinja source."""
