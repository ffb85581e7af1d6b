"""Chat templates in the shapes that are published: written for these tests, each with what makes its kind hard."""

from __future__ import annotations

THINKING = """
{%- if tools %}{{- '<|im_start|>system\\n' }}
{%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
{{- '# Tools\\n<tools>' }}{%- for tool in tools %}{{- '\\n' }}{{- tool | tojson }}{%- endfor %}
{{- '\\n</tools><|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(steps=true, last=messages|length - 1) %}
{%- for message in messages[::-1] %}
{%- set index = (messages|length - 1) - loop.index0 %}
{%- if ns.steps and message.role == 'user' and message.content is string
   and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
{%- set ns.steps = false %}{%- set ns.last = index %}{%- endif %}
{%- endfor %}
{%- for message in messages %}
{%- set content = message.content if message.content is string else '' %}
{%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}
{{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
{%- elif message.role == 'assistant' %}
{%- set thought = '' %}
{%- if message.reasoning_content is string %}{%- set thought = message.reasoning_content %}
{%- elif '</think>' in content %}
{%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
{%- set content = content.split('</think>')[-1].lstrip('\\n') %}
{%- endif %}
{%- if loop.index0 > ns.last and (loop.last or thought) %}
{{- '<|im_start|>' + message.role }}{{- '\\n<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' }}
{{- content.lstrip('\\n') }}
{%- else %}{{- '<|im_start|>' + message.role + '\\n' + content }}{%- endif %}
{%- for call in message.tool_calls or [] %}
{%- if (loop.first and content) or not loop.first %}{{- '\\n' }}{%- endif %}
{%- if call.function %}{%- set call = call.function %}{%- endif %}
{{- '<tool_call>\\n{"name": "' + call.name + '", "arguments": ' }}
{%- if call.arguments is string %}{{- call.arguments }}{%- else %}{{- call.arguments | tojson }}{%- endif %}
{{- '}\\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- elif message.role == 'tool' %}
{%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}
{{- '\\n<tool_response>\\n' + content + '\\n</tool_response>' }}
{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\\n' }}{%- endif %}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}"""

HEADERS = """{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}{%- set system = messages[0]['content'] | trim %}{%- set rest = messages[1:] %}
{%- else %}{%- set system = '' %}{%- set rest = messages %}{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' }}
{{- 'Today: ' + strftime_now('%d %b %Y') + '\\n' if strftime_now is defined else '' }}
{%- if tools is not none %}{%- for t in tools %}{{- t | tojson(indent=4) }}{{- '\\n\\n' }}{%- endfor %}{%- endif %}
{{- system }}{{- '<|eot_id|>' }}
{%- for message in rest %}
{%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
{%- elif 'tool_calls' in message %}
{%- if not message.tool_calls|length == 1 %}{{- raise_exception('one call at a time') }}{%- endif %}
{%- set call = message.tool_calls[0].function %}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n{"name": "' + call.name + '", "parameters": ' }}
{{- call.arguments | tojson }}{{- '}<|eot_id|>' }}
{%- else %}
{{- '<|start_header_id|>ipython<|end_header_id|>\\n\\n' }}
{%- if message.content is mapping or message.content is iterable %}{{- message.content | tojson }}
{%- else %}{{- message.content }}{%- endif %}{{- '<|eot_id|>' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"""

INSTRUCTION = """{%- if messages[0]['role'] == 'system' %}{%- set system = messages[0]['content'] %}
{%- set turns = messages[1:] %}{%- else %}{%- set turns = messages %}{%- endif %}
{{- bos_token }}
{%- for m in turns %}
{%- if m['role'] == 'user' %}
{%- if tools is not none and (m == turns[-1]) %}
{{- '[AVAILABLE_TOOLS]' }}{{- tools | tojson }}{{- '[/AVAILABLE_TOOLS]' }}
{%- endif %}
{%- if loop.first and system is defined %}{{- '[INST]' + system + '\\n\\n' + m['content'] + '[/INST]' }}
{%- else %}{{- '[INST]' + m['content'] + '[/INST]' }}{%- endif %}
{%- elif m.tool_calls is defined and m.tool_calls is not none %}
{{- '[TOOL_CALLS]' ~ (m.tool_calls | tojson) ~ eos_token }}
{%- elif m['role'] == 'assistant' %}{{- ' ' + m['content'] | trim + eos_token }}
{%- elif m['role'] == 'tool' %}{{- '[TOOL_RESULTS]{"content": ' ~ m.content ~ '}[/TOOL_RESULTS]' }}
{%- else %}{{- raise_exception('unknown role ' ~ m['role']) }}{%- endif %}
{%- endfor %}"""

NO_SYSTEM = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}
{% endif %}{% for message in messages %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}
{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}
{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}
{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"""

MARKED = """{%- for message in messages %}{{- '<|' + message.role + '|>\\n' }}
{%- if message.role == 'assistant' %}{% generation %}{{- message.content.strip() + eos_token }}{% endgeneration %}
{%- else %}{{- message.content }}{%- endif %}{{- '\\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>\\n' }}{%- endif %}"""

BACKWARDS = """{%- macro turn(m, first) -%}
<{{ m.role }}{% if not first %} n="{{ m.content | length }}"{% endif %}>{{ m.content[:3] }}{{ m.content[3:] }}</s>
{%- endmacro -%}
{%- set ns = namespace(text='') -%}
{%- for m in messages -%}{%- set ns.text = ns.text ~ turn(m, loop.first) -%}{%- endfor -%}
{{ ns.text }}{% if add_generation_prompt %}{{ '<assistant n="0">' }}{% endif %}"""

WITHOUT_BOS = """{% for message in messages %}
{%- if message.role == 'assistant' %}{{ '<bot>' + (message.content.split('</think>') | last) + eos_token }}
{%- else %}{{ ['<', message.role, '>', message.content] | join }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}<bot>{% endif %}"""

CALLS_BY_TAG = """{%- if tools %}{{- '<tools>' }}{%- for t in tools %}
{%- set t = t.function if t.function is defined else t %}
{{- '\\n<name>' ~ t.name ~ '</name>' }}
{%- for name, field in (t.parameters.properties or {}).items() %}{{- name ~ ':' ~ field.type ~ ';' }}{%- endfor %}
{%- endfor %}{{- '</tools>\\n' }}{%- endif %}
{%- for m in messages %}{{- '<|' ~ m.role ~ '|>' }}
{%- if m.thinking %}{{- '<think>' ~ m.thinking ~ '</think>' }}{%- endif %}
{{- m.content }}
{%- for call in m.tool_calls or [] %}{{- '<call=' ~ call.function.name ~ '>' }}
{%- for name, value in call.function.arguments | items %}
{{- '<arg=' ~ name ~ '>' ~ (value if value is string else value | tojson) ~ '</arg>' }}
{%- endfor %}{{- '</call>' }}{%- endfor %}
{%- if m.tool_call_id %}{{- '<id>' ~ m.tool_call_id ~ '</id>' }}{%- endif %}{{- eos_token }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}"""

TEMPLATES = {
    "thinking": THINKING,
    "headers": HEADERS,
    "instruction": INSTRUCTION,
    "no system": NO_SYSTEM,
    "marked": MARKED,
    "backwards": BACKWARDS,
    "without bos": WITHOUT_BOS,
    "calls by tag": CALLS_BY_TAG,
}
"""By name."""

WITH_TOOLS = ("thinking", "headers", "instruction", "calls by tag")
"""Those that write tools and tool calls."""
