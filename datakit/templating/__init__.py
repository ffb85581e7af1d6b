"""Chat templates: Jinja in a sandboxed child process, and text in pieces, each marked as trained or not."""
