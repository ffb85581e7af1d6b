"""A URL becomes its `Store`: a local folder, or an object store through fsspec (`memory://`, `s3://`)."""

from __future__ import annotations

import glob
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from schemas.errors import ConfigError
from schemas.nearest import nearest
from schemas.run_layout import RECORDS_END, RUN_END
from schemas.store.local import LocalStore
from schemas.store.storage import Store, normal, relative, shown


def open_store(url: str | os.PathLike[str]) -> tuple[Store, str]:
    """The store of a URL and the path in it."""
    place = normal(url)
    if "://" not in place:
        return LocalStore(), place
    from schemas.store.objects import ObjectStore

    protocol, path = place.split("://", 1)
    return ObjectStore(protocol), path


def named_file(url: str | os.PathLike[str]) -> tuple[Store, str]:
    """The store and path of an input that a person named; links of a local path are resolved, this once.

    Model hubs keep downloads as links into a folder of blobs. Datasets and whatever is written stay without links: they
    are opened by `open_store`.
    """
    store, path = open_store(url)
    return store, path if "://" in normal(url) else os.path.realpath(path)


def only_match(place: str) -> str:
    """What the pattern `place` matches, which the shell has left as it is; `place` itself where it is no pattern. What
    lies beside a checkpoint that matches is no match of its own. `ConfigError` for none and for several matches.
    """
    if "://" in place or not glob.has_magic(place) or os.path.lexists(place):
        return place
    matches = _results(sorted(glob.glob(place)))
    if len(matches) == 1:
        return matches[0]
    if matches:
        error = ConfigError(
            "several-matches",
            f"{shown(place)} matches {len(matches)} places; one is needed",
            found=shown(", ".join(matches)),
            kept="nothing was started",
            next=f"name one of them: {shlex.quote(matches[-1])}",
            wrong=(place,),
        )
        error.matches = tuple(matches)
        raise error
    above = next(parent for parent in Path(place).parents if not glob.has_magic(str(parent)))
    raise ConfigError(
        "no-match", f"nothing matches {shown(place)}", kept="nothing was started",
        next=f"ls {shlex.quote(str(above if above.is_dir() else Path('.')))}",
    )  # fmt: skip


def _results(matches: Sequence[str]) -> list[str]:
    """The `matches` without what lies beside another of them: the records and the folder of a checkpoint's run."""
    beside = {f"{one}{ending}" for one in matches for ending in (RECORDS_END, RUN_END)}
    return [one for one in matches if one not in beside]


def no_such_file(url: str) -> ConfigError:
    """What is said of a file that a person named and that is not there: the near name in its folder, how to look."""
    place, near, next_ = normal(url), "", "look at what lies there, and name a file of it"
    if "://" not in place:
        folder = next(parent for parent in Path(place).parents if parent.is_dir())
        if folder == Path(place).parent:
            near = _near(Path(place), [entry.name for entry in folder.iterdir() if entry.is_file()])
        next_ = f"ls {shlex.quote(relative(folder))}"
    return ConfigError(
        "no-such-file", f"there is no file {shown(url)}", kept="nothing was started", next=next_,
        wrong=(shown(url),), nearest=near,
    )  # fmt: skip


def near_name(place: str) -> str:
    """The name in its folder that is nearest to the last of a place where nothing is; empty where none is near."""
    path = Path(normal(place))
    if "://" in place or path.exists() or not path.parent.is_dir():
        return ""
    return _near(path, [entry.name for entry in path.parent.iterdir()])


def _near(path: Path, names: Sequence[str]) -> str:
    """The one of `names` that is most alike in front of its ending; empty where that is another one altogether
    (`o3.jsonl` for `hh.jsonl`). Hidden ones are nobody's mistake.
    """
    names = [name for name in names if not name.startswith(".")]
    stems = {name.partition(".")[0]: name for name in reversed(names) if name != path.name}
    stem = path.name.partition(".")[0]
    return nearest(path.name, names, 0.9) or stems.get(stem) or stems.get(nearest(stem, stems, 0.75), "")
