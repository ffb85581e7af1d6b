"""How one operation is run over its inputs: shards over processes, finished chunks, hanging workers."""
