"""What the graph asks of an operation whose one row is a tokenizer, before it runs."""

from __future__ import annotations


class MakesTokenizer:
    """Mixed into such operations; as it stands it is one whose tokenizer only its work decides."""

    @property
    def known_identity(self) -> str:
        """The tokenizer's identity; empty where it is not known before the work."""
        return ""

    @property
    def has_chat_template(self) -> bool | None:
        """Whether it comes with a chat template; None where that is not known."""
        return None

    @property
    def origin(self) -> str:
        """The path or address that it is read from; empty where it is made of rows."""
        return ""

    @property
    def most_tokens(self) -> int | None:
        """The size of its vocabulary at most; None where that is not known."""
        return None
