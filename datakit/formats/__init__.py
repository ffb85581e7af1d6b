"""Outside files as rows, and rows as outside files: layouts, the published shapes of rows, ids."""
