"""Chat templates: Jinja in a sandboxed child process, and text in pieces that are told apart."""
