"""Lineage as OpenLineage events, by that project's own client (extra `lineage`): one COMPLETE event for each result,
with the datasets that it was made of and itself, their columns and rows. Nothing is sent anywhere.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from datakit.catalog.lineage import Lineage
from datakit.catalog.workspace import Entry
from schemas.installed import missing_library

if TYPE_CHECKING:
    from openlineage.client.event_v2 import RunEvent

PRODUCER = "urn:quiver-align"
"""What each event and facet names as the program that made it."""

_JOBS, _FILES = "quiver", "file"
"""Namespaces of jobs (results by name) and of datasets (folders of this machine)."""


def events(lineage: Lineage, indices: Iterable[int]) -> Iterator[str]:
    """The events of the entries with these indices, in their order, each as one line of JSON; `ConfigError` where the
    library is missing.

    The id of a run comes of the place and content of its result: the same events at every call.
    """
    try:
        from openlineage.client.serde import Serde
    except ImportError as fault:
        raise missing_library("OpenLineage", "openlineage-python", "lineage", "everything") from fault
    for index in indices:
        yield Serde.to_json(_event(lineage, index))


def _event(lineage: Lineage, index: int) -> RunEvent:
    from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
    from openlineage.client.facet_v2 import output_statistics_output_dataset as statistics

    entry, above = lineage.entries[index], [lineage.entries[one] for one in dict.fromkeys(lineage.direct[index])]
    made = statistics.OutputStatisticsOutputDatasetFacet(
        rowCount=entry.rows if entry.made.kind == "dataset" else None,
        size=entry.bytes,
        fileCount=len(entry.made.files),
        producer=PRODUCER,
    )
    return RunEvent(
        eventType=RunState.COMPLETE,
        eventTime=datetime.fromtimestamp(entry.finished[0], timezone.utc).isoformat(),
        run=Run(runId=str(uuid.uuid5(uuid.NAMESPACE_URL, f"{_place(entry)} {entry.made.content_digest}"))),
        job=Job(namespace=_JOBS, name=entry.name, facets={"jobType": _job_type(entry)}),
        inputs=[InputDataset(namespace=_FILES, name=_place(one), facets=_columns(one)) for one in above],
        outputs=[
            OutputDataset(
                namespace=_FILES, name=_place(entry), facets=_columns(entry), outputFacets={"outputStatistics": made}
            )
        ],
        producer=PRODUCER,
    )


def _job_type(entry: Entry) -> Any:
    from openlineage.client.facet_v2 import job_type_job

    return job_type_job.JobTypeJobFacet(
        processingType="BATCH", integration="QUIVER", jobType=entry.made.op or "EXTERNAL", producer=PRODUCER
    )


def _columns(entry: Entry) -> dict[str, Any]:
    """The facet of a dataset's columns; a checkpoint has none."""
    from openlineage.client.facet_v2 import schema_dataset

    fields = [
        schema_dataset.SchemaDatasetFacetFields(name=one.name, type=one.kind, description=one.meaning or None)
        for one in entry.made.columns
    ]
    return {"schema": schema_dataset.SchemaDatasetFacet(fields=fields, producer=PRODUCER)} if fields else {}


def _place(entry: Entry) -> str:
    return f"{entry.root}/{entry.place}"
