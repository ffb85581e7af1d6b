"""The child process that renders chat templates: Jinja's immutable sandbox, no loader, hard limits on memory
and time.

Speaks JSON, one line a request, one line a reply. The sandbox stops a template from reaching Python; the
limits stop the two nested loops that no sandbox stops. Hugging Face's semantics: trimmed blocks, loop
controls, `raise_exception`, `tojson` without escapes, `generation` blocks, `strftime_now` (here of a given
date, so that equal runs give equal text). Runs by path, with Jinja alone.

A conversation can be asked for traced (`datakit.templating.given`): the reply then tells which characters of the text
came from which turn, and whether the template looked into contents.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
import types
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

if __name__ == "__main__":  # The package's own `__init__` would import much that a template has no need of.
    for _name, _place in (("datakit", Path(__file__).parents[1]), ("datakit.templating", Path(__file__).parent)):
        sys.modules.setdefault(_name, types.ModuleType(_name)).__path__ = [str(_place)]

from datakit.templating.given import TOOLS, Given, as_json, joined
from datakit.templating.tracing import Tracing

OPEN, CLOSE = "\ue010", "\ue011"


class Generation(Extension):
    """`{% generation %} ... {% endgeneration %}` around what the assistant says, as two marks in the text."""

    tags = {"generation"}  # noqa: RUF012  (a plain attribute in the base class)

    def parse(self, parser: Any) -> Any:
        """The body of one `{% generation %}` block, as a call block."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_marked"), [], [], body).set_lineno(line)

    def _marked(self, caller: Any) -> str:
        return OPEN + str(caller()) + CLOSE


class Undated(Exception):
    """The template asks for the date and none was given."""


class Overtime(BaseException):
    """A conversation took longer than its CPU seconds; nothing of Jinja catches it."""


def environment(kind: type[ImmutableSandboxedEnvironment], date: str | None) -> ImmutableSandboxedEnvironment:
    """The sandboxed Jinja environment in which chat templates run: as transformers has it, without loaders."""
    env = kind(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])

    def raise_exception(message: str) -> str:
        raise jinja2.TemplateError(message)

    def strftime_now(form: str) -> str:
        if date is None:
            raise Undated
        return datetime.fromisoformat(date).strftime(form)

    env.filters["tojson"] = as_json
    del env.filters["random"], env.globals["lipsum"]
    env.globals.update(raise_exception=raise_exception, strftime_now=strftime_now)
    return env


def compiled(text: str, date: str | None) -> list[Any]:
    """The template as it is, and as it follows characters to their turns."""
    return [environment(kind, date).from_string(text) for kind in (ImmutableSandboxedEnvironment, Tracing)]


def traced(value: Any, turn: int) -> Any:
    """`value` with every text of it known to come from `turn`."""
    if isinstance(value, str):
        return Given(value, ((0, len(value), turn),) if value else ())
    if isinstance(value, list):
        return [traced(part, turn) for part in value]
    if isinstance(value, dict):
        return {traced(name, turn): traced(part, turn) for name, part in value.items()}
    return value


def _size(value: Any) -> int:
    """Characters of all texts in `value`."""
    if isinstance(value, str):
        return len(value)
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return sum(map(_size, parts))


def rendered(template: Any, item: dict[str, Any], values: dict[str, Any], limit: int) -> dict[str, Any]:
    """Text of one conversation, and if it is `traced` its runs and whether contents were looked into; or the fault."""
    Given._looked = False
    messages, tools = item["messages"], item.get("tools")
    room = limit + 4 * _size([messages, tools])
    if item.get("traced"):
        first = item["traced_from"]
        messages = messages[:first] + [
            {name: text if name == "role" else traced(text, at) for name, text in turn.items()}
            for at, turn in enumerate(messages[first:], first)
        ]
        tools = traced(tools, TOOLS)
    try:
        given = {
            "documents": None,
            **values,
            "messages": messages,
            "tools": tools,
            "add_generation_prompt": item["open"],
        }
        parts, length = [], 0
        for part in template.generate(**given):
            length += str.__len__(part)
            if length > room:
                return {"fault": "template-output", "detail": f"over {limit} characters"}
            parts.append(part)
        text = joined(parts)
        runs = text._runs if type(text) is Given else ()
        return {"text": str.__str__(text), "runs": runs, "looked": Given._looked}
    except Overtime:
        return {"fault": "template-limit", "detail": "more CPU seconds than a conversation may take"}
    except Undated:
        return {"fault": "template-date", "detail": "the template writes the date and none is set"}
    except MemoryError:
        return {"fault": "template-memory", "detail": "out of memory"}
    except RecursionError:
        return {"fault": "template-recursion", "detail": "nested too deep"}
    except Exception as error:
        return {"fault": "template-failed", "detail": f"{type(error).__name__}: {error}"[:300], "looked": Given._looked}


def timed(head: dict[str, Any], template: Any, item: dict[str, Any]) -> dict[str, Any]:
    """`rendered` within its CPU seconds. One call of C that runs on ends this process."""

    def late(*_: Any) -> None:
        raise Overtime

    signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_VIRTUAL, 2 * head["seconds"])
    try:
        signal.setitimer(signal.ITIMER_PROF, head["seconds"])
        answer = rendered(template, item, head["values"], head["output"])
        signal.setitimer(signal.ITIMER_PROF, 0)
    except Overtime:  # between the end of the rendering and that of the timer
        answer = {"fault": "template-limit", "detail": "more CPU seconds than a conversation may take"}
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    return answer


def main() -> int:
    """Compile the template of the first line, then answer requests until the input ends."""
    head = json.loads(sys.stdin.buffer.readline())
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (head["memory"], head["memory"]))
    sys.setrecursionlimit(2000)
    replies = sys.stdout.buffer
    signal.setitimer(signal.ITIMER_VIRTUAL, head["seconds"])
    try:
        templates = compiled(head["template"], head["date"])
    except Exception as error:
        replies.write(json.dumps({"fault": "template-syntax", "detail": f"{error}"[:300]}).encode() + b"\n")
        return 0
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    replies.write(b"{}\n")
    replies.flush()
    for line in sys.stdin.buffer:
        answers = []
        for item in json.loads(line):
            template = templates[bool(item.get("traced"))]
            answers.append(timed(head, template, item))
        replies.write(json.dumps(answers).encode() + b"\n")
        replies.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
