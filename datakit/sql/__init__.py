"""SQL over columns: a locked-down DuckDB session, and what users write: a predicate, a dataset given as a query."""

from __future__ import annotations

from datakit.sql.predicate import Predicate as Predicate
from datakit.sql.query import Query as Query
from datakit.sql.session import Session as Session
