"""What is said of a file that a recipe's formats do not read, or that stands where token rows are asked for: which keys
are there, what they stand for, or which command reads it.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator

import luigi

from datakit.formats.advice import ANY_KEY
from datakit.formats.forms import FORMS
from datakit.formats.recognise import fitting, refusal
from datakit.op import Read
from pipelines.cli import invocation
from pipelines.cli.known_commands import commands
from pipelines.cli.learning import ByAlgorithm
from pipelines.commands.files import ReadsFiles
from schemas import PROMPTS
from schemas.errors import ConfigError, printable
from trainers.registry import algorithm_of

_READERS = ("Sft", "Preference", "RewardModel", "Generate")
"""Commands that a file may be meant for, likeliest first."""

_OF_ONE_COMMAND = ("data", "prompts", "model", "format", "columns", "algorithm", "options")
"""Parameters that another command is given otherwise than the one that was given, or not at all."""


def reason_and_next(task: type[ReadsFiles], read: Read, place: str) -> tuple[str, str]:
    """Why `read` makes no row of the file at `place`, and the command that was given with what would; another command
    where that reads the file as it is, and not the questions of it alone.
    """
    reason, flag = refusal(read)
    if flag.startswith("--columns") and invocation.value("--columns"):
        return reason, _with_given(flag)
    own = (task.usual_format, *task.other_formats)
    fits = fitting(place, own)
    if fits:
        return reason, f"--format {fits[0]}"
    others = fitting(place, (form for form in FORMS if form not in own))
    if not others:
        return reason, flag or f"quiver show {shlex.quote(place)}"
    renamed = flag.startswith("--columns") and ANY_KEY not in flag
    if renamed and FORMS[others[0]].schema.name == PROMPTS.name:  # which reads less of it
        return reason, flag
    reason = f"{reason}; formats that read it: {', '.join(others[:3])}"
    other = next(_readers(others[0]), "")
    if other:
        return f"{reason} (of {other}, another command)", _in_place(other, place)
    return reason, f"quiver Import --files {shlex.quote(place)} --format {others[0]}"


def no_tokens(place: str, algorithm: str) -> ConfigError:
    """What is said of a file where token rows of `algorithm` are asked for: the recipe that makes them of it."""
    formats = fitting(place)
    able = [name for form in formats for name in _readers(form) if _fits(commands()[name], algorithm)]
    others = [*able, *(name for form in formats for name in _readers(form))]
    chosen = invocation.value("--algorithm") if able else ""
    more = ["--algorithm", chosen] if chosen else []
    return ConfigError(
        "not-found",
        f"{printable(place, 200)} is a file, not a dataset of token rows",
        expected=f"a dataset folder, or {others[0]}, which makes the tokens of a file itself" if others else "",
        found=f"a file in the format {formats[0]}" if formats else "a file that no format reads",
        kept="nothing was started",
        next=_in_place(others[0], place, *more) if others else f"quiver show {shlex.quote(place)}",
    )


def _readers(form: str) -> Iterator[str]:
    """Commands that read files of a format."""
    for name in _READERS:
        kind = commands()[name]
        if issubclass(kind, ReadsFiles) and form in (kind.usual_format, *kind.other_formats):
            yield name


def _fits(kind: type[luigi.Task], algorithm: str) -> bool:
    return issubclass(kind, ByAlgorithm) and kind.fits(algorithm_of(algorithm))


def _in_place(other: str, place: str, *more: str) -> str:
    """The command `other` in place of the one that was given, over the file at `place`."""
    names = dict(commands()[other].get_params())
    flag = "--prompts" if "prompts" in names else "--data"
    model = invocation.value("--model") or invocation.value("--init") or "FOLDER"
    words = [other, "--model", model, flag, place, *more]
    words += invocation.shared([name for name in names if name not in _OF_ONE_COMMAND])
    return f"luigi --module pipelines {shlex.join(words)}"


def _with_given(flag: str) -> str:
    """`--columns` that are missing, with those that the command gives."""
    name, _, text = flag.partition(" ")
    try:
        given, missing = (json.loads(one) for one in (invocation.value("--columns"), shlex.split(text)[0]))
        return f"{name} {shlex.quote(json.dumps({**given, **missing}, ensure_ascii=False))}"
    except (ValueError, TypeError, IndexError):
        return flag
