"""Models that NeMo wrote, read and never unpacked: where their files lie, and what their settings and tokenizer are.

    tar         the members of a tar, by name and place, refused unless they are plain files
    archive     a `.nemo` file (tar, plain or gzip) or a folder of the same files, as files by name
    model       which of them are settings and tokenizer; what the settings say, as plain values

Weights are read by `trainers.engine.weights.nemo`.
"""
