"""Weights in and out: Hugging Face folders as checkpoints and checkpoints as Hugging Face folders.

`import_hf` makes a checkpoint of a folder, tensor by tensor; `export` makes a folder, which transformers and vLLM load,
of a checkpoint. `families` holds one file for each family: its settings and its table of tensors.
"""
