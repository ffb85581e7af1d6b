"""`quiver serve MODEL [--reward MODEL]`: a server for clients that speak the OpenAI dialect, on this machine."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from quiver.command import Command
from quiver.workspace_root import place_of, root_of
from schemas.errors import ConfigError, printable
from schemas.store.storage import relative

if TYPE_CHECKING:
    from datakit.template import Rendering
    from pipelines.serve.models import Served
    from pipelines.serve.secret import Secret

_VARIABLE = "QUIVER_TOKEN"


def serve(command: Command, arguments: Sequence[str]) -> Iterable[str]:
    """Where it listens, once it does; ends with a signal. `ConfigError` for what is no model, or cannot be served."""
    words, options = command.parsed(arguments)
    if command.at_most(1, words) == 0:
        raise command.wrong(" ".join(arguments) or "no model", f"{command.call} --help")
    return _served(command, words[0], options)


def _served(command: Command, reference: str, options: Mapping[str, str]) -> Iterator[str]:
    from pipelines.serve import listen, models
    from pipelines.serve.secret import Secret

    listen.require_library()
    root = root_of(options)
    rendering = rendering_of(options)
    secret = Secret("") if "no-token" in options else _secret(root, options)
    settings = listen.Settings(
        host=options.get("host", listen.Settings.host),
        port=number(command, options, "port", listen.Settings.port, 0, 65535),
        open_to_network="open-to-network" in options,
        token=secret.text,
        root=root,
        slots=number(command, options, "slots", listen.Settings.slots, 1, 4096),
        queue=number(command, options, "queue", listen.Settings.queue, 1, 1 << 20),
        threads=number(command, options, "threads", 0, 0, 4096) or None,
    )
    with listen.bound(settings) as listener:
        first = models.place_at(place_of(reference, options), root, options.get("name", ""))
        second = None
        if "reward" in options:
            name = options.get("reward-name", "")
            second = models.place_at(place_of(options["reward"], options), root, name)
        policy, reward = models.pair(first, second, rendering)

        def lines(address: str) -> str:
            return "\n".join(_lines(address, policy, reward, secret.place, options))

        yield from listen.served(settings, listener, policy, reward, lines)


def _secret(root: str, options: Mapping[str, str]) -> Secret:
    from pipelines.serve import secret

    if "token-env" in options:
        return secret.of_environment(options["token-env"])
    return secret.of_file(options.get("token-file") or os.path.join(root, "_serve", "token"))


def _lines(
    address: str, policy: Served | None, reward: Served | None, place: str, options: Mapping[str, str]
) -> Iterator[str]:
    """What somebody needs to know who asks it; commands stay on one line."""
    variable = options.get("token-env", "" if "no-token" in options else _VARIABLE)
    key = f",key={variable}" if variable else ""
    listed = [one for one in (policy, reward) if one is not None]
    for one in listed:
        kind = "policy" if one is policy else f"reward model: {', '.join(one.outputs)}"
        yield f"serving {printable(one.name, 200)} ({kind}, {one.positions:,} positions)"
    if place:
        yield f"the token is in {relative(place)}:"
        yield f"  export {_VARIABLE}_FILE={shlex.quote(place)}"
    for one in listed:
        yield f"as a model: {address}/v1#{printable(one.name, 200)}{key}"


def rendering_of(options: Mapping[str, str]) -> Rendering:
    """How conversations become text, as the flags say."""
    from datakit.template import Rendering

    return Rendering(template=options.get("template") or None, date=options.get("date") or None)


def number(command: Command, options: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    """The whole number behind a flag; `ConfigError` for any other word."""
    text = options.get(name, str(default))
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and least <= int(text) <= most):
        raise ConfigError(
            "bad-parameter",
            f"{command.call} --{name} takes a whole number",
            expected=f"{least} to {most}",
            found=printable(text),
            kept="nothing was started",
            next=f"--{name} {default or least}",
        )
    return int(text)
