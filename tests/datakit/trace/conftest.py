"""The workspace in a temporary folder that tests of the catalog have."""

from tests.datakit.catalog.conftest import make

__all__ = ["make"]
