"""What the operations share that read files in a named format: their settings, their identity, which is the files'
content, and what they say of rows that do not fit and of keys that were not read.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeVar

from datakit.formats.advice import advice
from datakit.formats.forms import Form
from datakit.formats.keys import Key
from datakit.formats.leftover import left_out, marks_as_text
from datakit.formats.rows import (
    PLACE_COLUMNS,
    Columns,
    Dialogue,
    Rows,
    draw_of,
    form_of,
    schema_of,
    without_place,
)
from datakit.formats.size import size_of
from datakit.formats.sources import check_files, pinned_to_files
from datakit.op import Read, Size
from schemas import Column, Schema
from schemas.manifest import Manifest

Self = TypeVar("Self", bound="FormatReader")


@dataclass(frozen=True, kw_only=True)
class FormatReader(Read):
    """Rows of `files` in a named `format` (see `datakit.formats.forms.FORMS`); the settings are those of `Jsonl`."""

    max_rejected: ClassVar[int] = 0

    files: tuple[str, ...] = ()
    format: str | None
    digests: tuple[str, ...] = ()
    columns: Columns = ()
    dialogue: Dialogue = "plain"
    source: str | None = None
    keep: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    types: tuple[tuple[str, str], ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", tuple(sorted(dict(self.columns).items())))
        self._keys()
        check_files(self.name, self.files, self.digests)

    @property
    def rejects(self) -> tuple[Column, ...]:
        """Where a rejected row stood, and what it was."""
        return PLACE_COLUMNS

    def gives(self, *inputs: Schema) -> Schema:
        """The row kind of the format, with the keys that are carried along."""
        return schema_of(self._form, self.pinned().types) if self.keep else self._form.schema

    def grown(self, given: Size) -> Size:
        return size_of(self.files)

    def advice(self, reason: str, detail: str) -> str:
        """The setting that would take such rows."""
        return advice(self._keys(), reason, detail)

    def notes(self, made: Manifest) -> tuple[str, ...]:
        """What the files hold that was not read, or not as it was meant."""
        form = None if self.dialogue != "plain" or self.format is None else self._form
        texts = form is not None and "extra_id" in form.dialogues and form.usual != "extra_id"
        return left_out(made) + (marks_as_text(made) if texts else ())

    def pinned(self: Self) -> Self:
        """The same import with the digests, and where they count the names, of the files as they are now, and the types
        of what is kept of them.
        """
        pinned = pinned_to_files(self)
        return replace(pinned, types=pinned.kept_types()) if self.keep and not self.types else pinned

    @abstractmethod
    def kept_types(self) -> tuple[tuple[str, str], ...]:
        """The type of each path in `keep`, over all rows of the files."""

    def params(self) -> dict[str, Any]:
        """Settings with the files' digests in place of their names."""
        form = None if self.format is None else self._form
        return without_place(super(FormatReader, self.pinned()).params(), form)

    @property
    def _form(self) -> Form:
        return form_of(self.format or "", self.columns, self.dialogue)[0]  # type: ignore[arg-type]

    def _keys(self) -> tuple[Key, ...]:
        return form_of(self.format or "", self.columns, self.dialogue)[1]  # type: ignore[arg-type]

    def _rows(self, kept: tuple[Key, ...]) -> Rows:
        """What makes rows of the records of one import."""
        return Rows(self.gives(), self.source, self.dialogue, kept, draw_of(self.seed))
