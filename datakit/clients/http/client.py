"""What the clients of a server share: requests that are journaled, and an end."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from datakit.clients.http.asking import Asking
from datakit.clients.protocols import Answers


@dataclass(frozen=True)
class HttpClient:
    """Base of clients that ask through `asking`."""

    asking: Asking

    def journaled(self, journal: Answers) -> Self:
        """The same, with its answers written into `journal`, and what stands there not asked."""
        return replace(self, asking=self.asking.journaled(journal))

    def close(self) -> None:
        """End what is under way, and the thread that asks."""
        self.asking.close()
