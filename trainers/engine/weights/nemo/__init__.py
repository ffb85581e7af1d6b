"""Weights of NeMo's models: found in every layout that NeMo writes, and read one tensor at a time.

held           a tensor that lies somewhere: in one place, in parts of several ranks, in boxes of a whole
ranks          files of ranks: one, or a grid of tensor and pipeline ranks
distributed    distributed checkpoints: PyTorch's index and files, or a zarr folder for each tensor
names          what Megatron-Core, and NeMo before it, call the tensors
settings       which network the settings describe
source         all of it together: an archive or folder as tensors by name
"""
