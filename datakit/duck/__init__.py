"""DuckDB for user SQL: checked text, locked-down sessions."""
