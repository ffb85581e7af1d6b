"""The blank that sentencepiece-like tokenizers put before a text: where it comes from in a tokenizer's JSON.

    Metaspace `first`                            at the beginning of a text alone
    Metaspace `always`, Prepend, ByteLevel's     at the beginning of every stretch between control tokens
    add_prefix_space, a Replace of `BEGINNING`

A text that is encoded in parts must get it where the whole text would, and nowhere else.
"""

from __future__ import annotations

from typing import Any

BEGINNING = r"\A"
"""How the pattern of a Replace starts that changes the beginning of a text (see `datakit.tokenizers.spm`)."""


def unprefixed(data: dict[str, Any], inside: bool) -> dict[str, Any] | None:
    """`data` (a tokenizer's JSON) for text behind a control token or, `inside`, in the middle of plain text; None where
    it is the same.
    """
    made = {"pre_tokenizer": _without(data.get("pre_tokenizer"), "pretokenizers", inside)}
    if inside:
        made["normalizer"] = _without(data.get("normalizer"), "normalizers", inside)
    return None if all(data.get(name) == part for name, part in made.items()) else {**data, **made}


def _without(node: Any, inner: str, inside: bool) -> Any:
    """A normalizer or pre-tokenizer without what writes a blank there."""
    if not isinstance(node, dict):
        return node
    kind = node.get("type")
    if isinstance(node.get(inner), list):
        parts = [_without(part, inner, inside) for part in node[inner]]
        return {**node, inner: [part for part in parts if part is not None]}
    if kind == "Metaspace":
        scheme = node.get("prepend_scheme", "always" if node.get("add_prefix_space", True) else "never")
        kept = {name: value for name, value in node.items() if name != "add_prefix_space"}
        return {**kept, "prepend_scheme": "never"} if scheme == "first" or (inside and scheme == "always") else node
    if kind == "ByteLevel" and inside and node.get("add_prefix_space"):
        return {**node, "add_prefix_space": False}
    pattern = node.get("pattern")
    regex = pattern.get("Regex") if isinstance(pattern, dict) else None
    prefixes = kind == "Prepend" or (kind == "Replace" and str(regex).startswith(BEGINNING))
    return None if inside and prefixes else node
