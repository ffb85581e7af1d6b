"""Megatron-Core: process groups, layers, the network, and what it takes to run on a CPU."""
