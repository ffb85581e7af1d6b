"""`quiver chat MODEL`: a conversation in the terminal, or of a pipe, line by line.

What the model says is text: whatever steers a terminal is shown as its number. With a pipe the answers alone are
written to standard output, one after another; what else is said goes to standard error.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from quiver.command import Command
from quiver.serve import number, rendering_of
from quiver.workspace_root import place_of, root_of
from schemas.errors import ConfigError, DataError, escaped, printable
from schemas.process.terminal import error_text

if TYPE_CHECKING:
    from datakit.clients.sampling import Sampling
    from pipelines.serve.conversation import Conversation

_FORGET, _END = "/forget", "/end"


def chat(command: Command, arguments: Sequence[str]) -> Iterable[str]:
    """The lines of the conversation, written as they come; ends with the input. `ConfigError` for what is no policy."""
    words, options = command.parsed(arguments)
    if command.at_most(1, words) == 0:
        raise command.wrong(" ".join(arguments) or "no model", f"{command.call} --help")
    return _lines(command, words[0], options)


def _lines(command: Command, reference: str, options: Mapping[str, str]) -> Iterator[str]:
    from pipelines.serve import models
    from pipelines.serve.conversation import Conversation

    sampling = _sampling(command, options)
    root, rendering = root_of(options), rendering_of(options)
    served = models.opened(models.place_at(place_of(reference, options), root), rendering)
    models.require_policy(served)
    served.texts.check_template()
    conversation = Conversation(
        served, sampling, number(command, options, "seed", 1234, 0, 999_999_999), options.get("system", ""),
        number(command, options, "threads", 0, 0, 4096) or None,
    )  # fmt: skip
    asks = sys.stdin.isatty()
    with conversation:
        if asks:
            _aside(f"{printable(served.name, 200)}: {_FORGET} begins anew, {_END} or Ctrl-D ends")
        for text in _typed(asks):
            if text == _END:
                return
            if text == _FORGET:
                conversation.forget()
            elif text.strip():
                yield from _answered(conversation, text, "verbose" in options, asks)


def _typed(asks: bool) -> Iterator[str]:
    """What the person types, or the lines of a pipe; bytes that are no UTF-8 are those of `surrogateescape`."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")
    while True:
        if asks:
            print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        yield line.rstrip("\r\n")


def _answered(conversation: Conversation, text: str, verbose: bool, asks: bool) -> Iterator[str]:
    try:
        for piece in conversation.send(text):
            sys.stdout.write(escaped(piece))
            sys.stdout.flush()
    except DataError as fault:
        if not asks:
            raise
        _aside(error_text(fault))
        return
    yield ""
    if verbose:
        for token, logprob in conversation.tokens():
            yield f"  {logprob:9.4f}  {printable(token)}"
        mean = sum(conversation.last.logprobs) / len(conversation.last.logprobs)
        yield f"  {mean:9.4f}  mean of {len(conversation.last.ids)} tokens; ended by {conversation.last.finish}"


def _aside(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _sampling(command: Command, options: Mapping[str, str]) -> Sampling:
    from datakit.clients.sampling import Sampling

    temperature = _real(command, options, "temperature", 1.0)
    return Sampling(
        temperature=temperature or 1.0,
        greedy=temperature == 0,
        top_p=_real(command, options, "top-p", 1.0),
        top_k=number(command, options, "top-k", 0, 0, 1 << 30),
        max_new_tokens=number(command, options, "max-new-tokens", 512, 1, 1 << 30),
    )


def _real(command: Command, options: Mapping[str, str], name: str, default: float) -> float:
    text = options.get(name, str(default))
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise ConfigError(
            "bad-parameter",
            f"{command.call} --{name} takes a number",
            expected="0 or more",
            found=printable(text),
            kept="nothing was started",
            next=f"--{name} {default:g}",
        )
    return value
