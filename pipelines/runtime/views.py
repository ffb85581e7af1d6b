"""The views over all data (`catalog.duckdb`), made again where a command has made something."""

from __future__ import annotations

import logging
import os

_LOG = logging.getLogger("luigi-interface")


def refresh_views(root: str) -> None:
    """Make the catalog below `root` again where it is older than the manifests. Nobody needs it to be there, so no
    command waits for another one's or fails by it: what is wrong stands in the log, and whoever asks finds out himself.
    """
    if "://" in root or not os.path.isdir(root):
        return
    try:
        from datakit.catalog.catalog_file import refresh
        from datakit.catalog.workspace import read_workspace

        refresh(read_workspace(root))
    except Exception as fault:  # a full disk, a folder that is read-only, a bug: the results are there all the same
        _LOG.warning("the catalog of %s is older than its data: %s", root, fault)
