"""The child process that renders chat templates: Jinja's immutable sandbox, no loader, hard limits on memory
and time.

Speaks JSON, one line a request, one line a reply. The sandbox stops a template from reaching Python; the
limits stop the two nested loops that no sandbox stops. Hugging Face's semantics: trimmed blocks, loop
controls, `raise_exception`, `tojson` without escapes, `generation` blocks, `strftime_now` (here of a given
date, so that equal runs give equal text). Runs by path, with Jinja alone.

A content can be asked for as a probe: text that notes whether the template looked into it (compared it,
searched it, took its length) rather than only writing it out. Where no content is looked into, the text
around contents is a function of the roles alone.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from datetime import datetime
from typing import Any, ClassVar

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

OPEN, CLOSE = "\ue010", "\ue011"
_PLAIN = {
    "__str__",
    "__class__",
    "__new__",
    "__init__",
    "__getattribute__",
    "__init_subclass__",
    "__subclasshook__",
}
_COMPARES = {"__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__"}
_ALLOWED = {
    "strip",
    "lstrip",
    "rstrip",
    "__format__",
    "__html__",
    "__hash__",
    "__repr__",
    "__reduce__",
    "__reduce_ex__",
}


class Probe(str):
    """A content that notes when it is looked into."""

    looked: ClassVar[list[str]] = []

    def strip(self, chars: str | None = None, /) -> str:
        """As of str, kept a probe."""
        return Probe(str.strip(self, chars))

    def lstrip(self, chars: str | None = None, /) -> str:
        """As of str, kept a probe."""
        return Probe(str.lstrip(self, chars))

    def rstrip(self, chars: str | None = None, /) -> str:
        """As of str, kept a probe."""
        return Probe(str.rstrip(self, chars))

    def __add__(self, other: str, /) -> str:
        return Probe(str.__add__(self, other))

    def __radd__(self, other: str) -> str:
        return Probe(str.__add__(other, self))

    def __bool__(self) -> bool:
        Probe.looked.append("bool")
        return len(str(self)) > 0

    __hash__ = str.__hash__


def _noting(name: str) -> Any:
    method = getattr(str, name)

    def noted(self: Probe, *args: Any, **named: Any) -> Any:
        Probe.looked.append(name)
        return method(self, *args, **named)

    return noted


for _name in dir(str):
    _own = _name in vars(Probe) or _name in _PLAIN or _name in _ALLOWED or _name in vars(object)
    if not _own or _name in _COMPARES:
        setattr(Probe, _name, _noting(_name))
Probe.__hash__ = str.__hash__  # type: ignore[method-assign,assignment]


class Generation(Extension):
    """`{% generation %} ... {% endgeneration %}` around what the assistant says, as two marks in the text."""

    tags = {"generation"}  # noqa: RUF012  (a plain attribute in the base class)

    def parse(self, parser: Any) -> Any:
        """One call block."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_marked"), [], [], body).set_lineno(line)

    def _marked(self, caller: Any) -> str:
        return OPEN + str(caller()) + CLOSE


class Undated(Exception):
    """The template asks for the date and none was given."""


def environment(date: str | None) -> ImmutableSandboxedEnvironment:
    """The sandbox."""
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])

    def raise_exception(message: str) -> str:
        raise jinja2.TemplateError(message)

    def strftime_now(form: str) -> str:
        if date is None:
            raise Undated
        return datetime.fromisoformat(date).strftime(form)

    def tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **more: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **more)

    env.filters["tojson"] = tojson
    del env.filters["random"], env.globals["lipsum"]
    env.globals.update(raise_exception=raise_exception, strftime_now=strftime_now)
    return env


def rendered(template: Any, item: dict[str, Any], values: dict[str, Any], limit: int) -> dict[str, Any]:
    """Text of one conversation, whether its contents were looked into, or the fault."""
    Probe.looked.clear()
    kind = Probe if item.get("probe") else str
    turns = zip(item["roles"], item["contents"], strict=True)
    messages = [{"role": role, "content": kind(content)} for role, content in turns]
    try:
        given = {
            "tools": None,
            "documents": None,
            **values,
            "messages": messages,
            "add_generation_prompt": item["open"],
        }
        parts, length = [], 0
        for part in template.generate(**given):
            length += len(part)
            if length > limit + sum(map(len, item["contents"])) * 4:
                return {"fault": "template-output", "told": f"over {limit} characters"}
            parts.append(str.__str__(part))
        return {"text": "".join(parts), "looked": bool(Probe.looked)}
    except Undated:
        return {"fault": "template-date", "told": "the template writes the date and none is set"}
    except MemoryError:
        return {"fault": "template-memory", "told": "out of memory"}
    except RecursionError:
        return {"fault": "template-recursion", "told": "nested too deep"}
    except Exception as error:
        return {"fault": "template-failed", "told": f"{type(error).__name__}: {error}"[:300]}


def main() -> int:
    """Compile the template of the first line, then answer requests until the input ends."""
    head = json.loads(sys.stdin.buffer.readline())
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (head["memory"], head["memory"]))
    sys.setrecursionlimit(2000)
    replies = sys.stdout.buffer
    signal.setitimer(signal.ITIMER_PROF, head["seconds"])
    try:
        template = environment(head["date"]).from_string(head["template"])
    except Exception as error:
        replies.write(json.dumps({"fault": "template-syntax", "told": f"{error}"[:300]}).encode() + b"\n")
        return 0
    replies.write(b"{}\n")
    replies.flush()
    for line in sys.stdin.buffer:
        answers = []
        for item in json.loads(line):
            signal.setitimer(signal.ITIMER_PROF, head["seconds"])
            answers.append(rendered(template, item, head["values"], head["output"]))
        signal.setitimer(signal.ITIMER_PROF, 0)
        replies.write(json.dumps(answers).encode() + b"\n")
        replies.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
