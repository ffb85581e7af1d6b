"""A file of settings that a person wrote, YAML or JSON: its values with the lines on which they stand."""

from __future__ import annotations

from collections.abc import Mapping

from pipelines.cli.config_files import bad_configuration, file_bytes
from schemas.errors import ConfigError, printable
from schemas.store.storage import shown
from schemas.untrusted import parsing
from schemas.yaml_entries import Entry, entries_in

LIMIT = 1 << 18
"""Bytes of such a file."""
_EXPECTED = "YAML or JSON: lines key: value"


def entries_of(place: str) -> Mapping[str, Entry]:
    """What the file `place` says, by key; `ConfigError` for one that is no mapping, or that cannot be read."""
    where = shown(place)

    def fault(line: int, what: str, expected: str) -> ConfigError:
        return bad_configuration(f"{where}, line {line}", what, expected)

    data = file_bytes(place, where, limit=LIMIT)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise fault(line, "bytes that are no UTF-8", "text in UTF-8") from None
    with parsing(lambda words: bad_configuration(where, printable(words, 200), _EXPECTED)):
        return entries_in(text.replace("\t", " ") if place.endswith(".json") else text, fault)
