"""Row kinds, one schema per file: what a prompt, a sample, a reward, a preference or a token row may be."""
