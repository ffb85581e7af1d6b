"""What is said of a file that a recipe's formats do not read: which keys are there, what they stand for, or which
command reads it.
"""

from __future__ import annotations

import json
import shlex

from datakit.formats.forms import FORMS
from datakit.formats.recognise import fitting, refusal
from datakit.op import Read
from pipelines.commands.files import ReadsFiles
from pipelines.runtime import invocation
from pipelines.runtime.known_commands import commands

_READERS = ("Sft", "Preference", "RewardModel", "Generate")
"""Commands that a file may be meant for, likeliest first."""

_OF_ONE_COMMAND = ("data", "prompts", "model", "format", "columns", "algorithm", "options")
"""Parameters that another command is given otherwise than the one that was given, or not at all."""


def reason_and_next(task: type[ReadsFiles], read: Read, place: str) -> tuple[str, str]:
    """Why `read` makes no row of the file at `place`, and the command that was given with what would; another command
    where that reads the file as it is.
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
    reason = f"{reason}; formats that read it: {', '.join(others[:3])}"
    for other in _READERS:
        kind = commands()[other]
        formats = (kind.usual_format, *kind.other_formats) if issubclass(kind, ReadsFiles) else ()
        if others[0] in formats:
            names = dict(kind.get_params())
            flag = "--prompts" if "prompts" in names else "--data"
            words = [other, "--model", invocation.value("--model") or "FOLDER", flag, place]
            words += invocation.shared([name for name in names if name not in _OF_ONE_COMMAND])
            reason = f"{reason} (of {other}, another command)"
            return reason, f"luigi --module pipelines {shlex.join(words)}"
    return reason, f"quiver Import --files {shlex.quote(place)} --format {others[0]}"


def _with_given(flag: str) -> str:
    """`--columns` that are missing, with those that the command gives."""
    name, _, text = flag.partition(" ")
    try:
        given, missing = (json.loads(one) for one in (invocation.value("--columns"), shlex.split(text)[0]))
        return f"{name} {shlex.quote(json.dumps({**given, **missing}, ensure_ascii=False))}"
    except (ValueError, TypeError, IndexError):
        return flag
