"""A tokenizer from outside as a dataset: a Hugging Face folder, a tokenizer.json, a sentencepiece model, GPT-2's files.

Its identity is of its content: the same tokenizer has it wherever it lies, also inside a checkpoint that was adopted.
Nothing that comes with it is run; a chat template is rendered in the sandbox (`datakit.template`) when it is used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from datakit.op import Context, Read, Result, Size
from datakit.templating.named import TEMPLATES
from datakit.templating.rendering import check_template
from datakit.tokenizers import convert
from datakit.tokenizers.hf_files import digests_of, files_at, row_in
from datakit.tokenizers.making import MakesTokenizer
from datakit.tokenizers.tokenizer import Tokenizer
from schemas import TOKENIZERS, Schema
from schemas.errors import ConfigError, IntegrityError
from schemas.store.storage import normal, shown


@dataclass(frozen=True, kw_only=True)
class Adopt(MakesTokenizer, Read):
    """One TOKENIZERS row of the tokenizer at `path`: a folder, or the file that holds its vocabulary.

    `template` (a name or Jinja source), `bos`, `eos` and `pad` take the place of what came with it. `legacy` is for
    sentencepiece models: whether text behind a control token gets a blank before it (None: as its settings say, else
    yes). `digests` (SHA-256 of each file) and `identity` are taken where not given.
    """

    name: ClassVar[str] = "tokenize.adopt"
    older_names: ClassVar[Mapping[str, str]] = {"vocabulary": "tokenizer_name"}

    path: str = ""
    digests: tuple[tuple[str, str], ...] = ()
    identity: str = ""
    tokenizer_name: str = "adopted"
    template: str | None = None
    bos: str | None = None
    eos: str | None = None
    pad: str | None = None
    legacy: bool | None = None

    def __post_init__(self) -> None:
        check_template(self.name, self.template)
        if not self.path and not (self.digests and self.identity):
            raise ConfigError("bad-setting", f"{self.name} names no path", kept="nothing was started")

    def gives(self, *inputs: Schema) -> Schema:
        return TOKENIZERS

    def grown(self, given: Size) -> Size:
        return Size(1, sum(map(len, files_at(self.path).values())) if self.path else 0.0)

    def pinned(self) -> Self:
        """The same adoption with the whole path, and with digests and identity as the files are now."""
        here = replace(self, path=normal(self.path)) if self.path else self
        if self.digests and self.identity:
            return here
        files = files_at(here.path)
        return replace(here, digests=digests_of(files), identity=self._tokenizer(files).identity)

    @property
    def known_identity(self) -> str:
        return self.pinned().identity

    @property
    def origin(self) -> str:
        return self.path

    @property
    def has_chat_template(self) -> bool | None:
        """Whether a template was given or came with the files; None where they are not at hand."""
        if self.template is not None:
            return True
        return self._tokenizer(files_at(self.path)).chat_template is not None if self.path else None

    def params(self) -> dict[str, Any]:
        """Settings with the files' digests and the identity in place of the path."""
        return {name: value for name, value in super(Adopt, self.pinned()).params().items() if name != "path"}

    def read(self, ctx: Context) -> Iterator[Result]:
        """The one row; `IntegrityError` if the files are not those that were named."""
        files = files_at(self.path)
        made = self._tokenizer(files)
        for what, expected, actual in (
            ("the files", self.digests, digests_of(files)),
            ("the identity", self.identity, made.identity),
        ):
            if expected and expected != actual:
                raise IntegrityError(
                    "source-changed",
                    f"{what} of the tokenizer at {shown(self.path)} changed since it was named",
                    expected=str(expected),
                    found=str(actual),
                    kept="nothing was published",
                    next="name it again, so that its new content gets its own identity",
                )
        yield Result(made.row)

    def _tokenizer(self, files: dict[str, bytes]) -> Tokenizer:
        row = row_in(files, self.path, self.legacy)
        given = {"bos_token": self.bos, "eos_token": self.eos, "pad_token": self.pad}
        named = {name: token for name, token in given.items() if token is not None}
        if named:
            row["tokenizer_json"] = convert.specialised(str(row["tokenizer_json"]), list(named.values()))
        if self.template is not None:
            row["chat_template"] = TEMPLATES.get(self.template, self.template)
        return Tokenizer(self.tokenizer_name, **{**row, **named})  # type: ignore[arg-type]
