"""A workspace as DuckDB views: what its manifests say, which results are of the last run, the SQL of each view."""
