"""Where data lie: `--root`, or `root` in section `[quiver]` of Luigi's files, read without Luigi; results by name."""

from __future__ import annotations

import configparser
import os
import shlex
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress

from datakit.catalog.last_run import last_run
from datakit.catalog.lineage import Lineage
from datakit.catalog.named import matching, newest
from datakit.catalog.workspace import read_workspace
from schemas.errors import ConfigError, IntegrityError, counted, printable
from schemas.nearest import nearest
from schemas.store.storage import shown

DEFAULT = "quiver-data"
_PLACES = ("/etc/luigi/client.cfg", "/etc/luigi/luigi.cfg", "client.cfg", "luigi.cfg")
_LIMIT = 1 << 20
_ASIDE = "/rejected"
"""What stands behind a name where the rows are meant that were set aside."""
_NAMED = 3
"""Names that are said of a folder, at most."""


def root_of(options: Mapping[str, str]) -> str:
    """The root of the workspace; `ConfigError` for a file of settings that cannot be read."""
    if options.get("root"):
        return options["root"]
    root = DEFAULT
    for place in (*_PLACES, os.environ.get("LUIGI_CONFIG_PATH", "")):
        if place and os.path.lexists(place) and not place.endswith(".toml"):
            root = _stated(place) or root
    return os.path.expanduser(root)


def in_root(command: str, options: Mapping[str, str]) -> str:
    """`command` over the same workspace: with the `--root` of `options`, where they have one."""
    root = options.get("root", "")
    return f"{command} --root {shlex.quote(root)}" if root else command


def _stated(place: str) -> str:
    reader = configparser.ConfigParser()
    try:
        if not stat.S_ISREG(os.stat(place).st_mode):
            raise OSError("no regular file")
        with open(place, "rb") as file:
            reader.read_string(file.read(_LIMIT).decode("utf-8"), source=shown(place))
        return reader.get("quiver", "root", fallback="")
    except (OSError, UnicodeDecodeError, configparser.Error) as fault:
        raise ConfigError(
            "bad-configuration",
            f"the configuration cannot be read: {shown(place)}",
            expected="[section], and below it lines key = value",
            found=printable(str(fault).splitlines()[0], 200),
            where=shown(place),
            kept="nothing was started",
            next="correct that file, or name the folder of the data: --root FOLDER",
        ) from None


def place_of(place: str, options: Mapping[str, str]) -> str:
    """`place`, or where the result of that name lies, of its variants that of the last run, or else the last; with
    `/rejected` behind it, where the rows lie that were set aside when it was made.
    """
    if "://" in place or os.path.lexists(os.path.expanduser(place)):
        return place
    with suppress(ConfigError):
        workspace = read_workspace(root_of(options))
        plain = place.rstrip("/")
        aside = _ASIDE if plain.endswith(_ASIDE) else ""
        name, there = matching(workspace.entries, plain.removesuffix(_ASIDE))
        if there and name in (there[0].name, there[0].place):
            chosen = newest(there, last_run(Lineage(workspace.entries)))
            return os.path.join(workspace.root, chosen.place) + aside
        if not place.startswith(("/", ".", "~")):
            _refuse_name(name or plain.removesuffix(_ASIDE), [one.name for one in workspace.entries])
    return place


def _refuse_name(name: str, names: Iterable[str]) -> None:
    """`IntegrityError` where `name` is a folder of some of the `names`, or nearly one of them."""
    inside = sorted({one for one in names if one.startswith(f"{name}/")})
    near = "" if inside else nearest(name, sorted({*names}))
    if not inside and not near:
        return
    listed = ", ".join(printable(one, 200) for one in inside[:_NAMED])
    inside_of = f": it is a folder of {counted(len(inside), 'result')}" if inside else ""
    raise IntegrityError(
        "dataset-missing",
        f"no dataset or checkpoint is called {printable(name, 200)}{inside_of}",
        expected=f"one of {listed}{', ...' if inside[_NAMED:] else ''}" if inside else "a name that quiver ls has",
        found=printable(name, 200),
        kept="nothing was read",
        next=shlex.join(["quiver", *(["ls", name] if inside else ["show", near])]),
        wrong=(name,),
        nearest=near,
    )
