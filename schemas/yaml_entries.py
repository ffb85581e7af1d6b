"""YAML or JSON that a person or another program wrote: its values with the lines on which they stand.

PyYAML takes the text apart; nothing of it is built by PyYAML. Plain values are those of YAML 1.2's core schema (`1e-5`
is a number, `yes` and `2025-01-31` are texts). Tags, anchors, aliases, several documents, a key given twice and
whatever is larger or deeper than settings are, is refused where it is met.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from schemas.errors import QuiverError, printable
from schemas.untrusted import exact_number

if TYPE_CHECKING:
    import yaml

_DEPTH, _VALUES = 16, 10_000
_NULL, _TRUE, _FALSE = ("", "~", "null", "Null", "NULL"), ("true", "True", "TRUE"), ("false", "False", "FALSE")
_WHOLE, _NUMBER = re.compile(r"[-+]?\d+", re.ASCII), re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?", re.ASCII)
_EXPECTED = "YAML or JSON: lines key: value"

Fault = Callable[[int, str, str], QuiverError]
"""The error for what stands on a line: the line, what it is, and what should stand there."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A value and the line on which it begins: `text` as it is written where it is one text or number, otherwise None;
    `below` the entries of a mapping.
    """

    line: int
    value: Any
    text: str | None = None
    below: Mapping[str, Entry] = field(default_factory=dict)

    def leaves(self, path: str = "") -> Iterator[tuple[str, Entry]]:
        """What stands at the ends of mappings, with its dotted path."""
        for key, entry in self.below.items():
            yield from entry.leaves(f"{path}{key}.") if entry.below else [(f"{path}{key}", entry)]


def entries_in(text: str, fault: Fault) -> Mapping[str, Entry]:
    """What `text` says, by key; `fault` for one that is no mapping, or that cannot be read."""
    whole = _Reader(text, fault).whole()
    if not isinstance(whole.value, dict | None):
        raise fault(whole.line, printable(whole.value), _EXPECTED)
    return whole.below


class _Reader:
    """The one value that the events of a text make. JSON may hold tabs between its values, YAML may not."""

    def __init__(self, text: str, fault: Fault) -> None:
        import yaml

        self.yaml, self.fault, self.values = yaml, fault, 0
        self.events: Iterator[yaml.Event] = yaml.parse(text, Loader=yaml.SafeLoader)

    def whole(self) -> Entry:
        """The value of the only document; null where there is none."""
        yaml = self.yaml
        try:
            next(self.events)  # the stream begins
            if isinstance(next(self.events), yaml.StreamEndEvent):
                return Entry(line=1, value=None, text="")
            whole = self.entry(next(self.events), 0)
            next(self.events)  # the document ends
            after = next(self.events)
        except yaml.MarkedYAMLError as fault:
            mark = fault.problem_mark or fault.context_mark
            words = printable(fault.problem or fault.context, 200)
            raise self.fault(mark.line + 1 if mark else 1, words, _EXPECTED) from None
        if not isinstance(after, yaml.StreamEndEvent):
            raise self.fault(after.start_mark.line + 1, "a second document", "one")
        return whole

    def entry(self, event: yaml.Event, depth: int) -> Entry:
        """The value that begins with `event`."""
        yaml, line = self.yaml, event.start_mark.line + 1
        self.values += 1
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise self.fault(line, "an anchor or alias (& or *)", "values written out; texts with & or * quoted")
        if event.tag is not None:
            raise self.fault(line, f"the tag {printable(event.tag)}", "plain values, without ! in front")
        if depth > _DEPTH or self.values > _VALUES:
            what = f"more than {_VALUES:,} values" if depth <= _DEPTH else f"values nested more than {_DEPTH} deep"
            raise self.fault(line, what, "settings of one command")
        if isinstance(event, yaml.ScalarEvent):
            text = self._text(event)
            return Entry(line=line, value=self._plain(text, line) if event.implicit[0] else text, text=text)
        if isinstance(event, yaml.SequenceStartEvent):
            items = [self.entry(one, depth + 1) for one in self._inside(yaml.SequenceEndEvent)]
            return Entry(line=line, value=[item.value for item in items])
        below: dict[str, Entry] = {}
        for key in self._inside(yaml.MappingEndEvent):
            name = self.entry(key, depth + 1)
            if name.text is None:
                raise self.fault(name.line, "a key that is no text", _EXPECTED)
            if name.text in below:
                first = below[name.text].line
                raise self.fault(name.line, f"{printable(name.text)} again, after line {first}", "each key once")
            below[name.text] = replace(self.entry(next(self.events), depth + 1), line=name.line)
        return Entry(line=line, value={key: entry.value for key, entry in below.items()}, below=below)

    def _inside(self, end: type[yaml.Event]) -> Iterator[yaml.Event]:
        """The events in front of the `end` of a list or mapping."""
        while not isinstance(event := next(self.events), end):
            yield event

    def _text(self, event: yaml.ScalarEvent) -> str:
        """The characters of a scalar; JSON writes those beyond 16 bits as two numbers."""
        try:
            return str(event.value).encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            line = event.start_mark.line + 1
            raise self.fault(line, "half a pair of surrogates", "characters") from None

    def _plain(self, text: str, line: int) -> Any:
        """What a text without quotes is."""
        if text in _NULL:
            return None
        if text in (*_TRUE, *_FALSE):
            return text in _TRUE
        try:
            return int(text) if _WHOLE.fullmatch(text) else exact_number(text) if _NUMBER.fullmatch(text) else text
        except ValueError as fault:
            raise self.fault(line, printable(fault, 200), "a number that can be kept, or a text in quotes") from None
