"""SQL over columns: a locked-down DuckDB session, and what users write: a predicate, a dataset given as a query.

`connect` opens the views of a workspace; `ask` answers a question over them in a child that is bounded.
"""

from __future__ import annotations

from datakit.catalog.ask import ask as ask
from datakit.catalog.connect import connect as connect
from datakit.duck.predicate import Predicate as Predicate
from datakit.duck.session import Session as Session
from datakit.sql.query import Query as Query
