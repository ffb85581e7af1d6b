"""The library that holds the networks: imported when it is asked for, and quiet."""

from __future__ import annotations

from typing import Any

from schemas.installed import missing_library


def diffusers() -> Any:
    """The library, whose bars and remarks on what is not installed are nobody's business here. What it says of a prompt
    that it cuts is the prompt itself, unescaped.
    """
    try:
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        import diffusers
    except ImportError:
        raise missing_library("an image model", "diffusers", "images", "nothing was started") from None
    diffusers.utils.logging.disable_progress_bar()
    diffusers.utils.logging.set_verbosity_error()
    return diffusers
