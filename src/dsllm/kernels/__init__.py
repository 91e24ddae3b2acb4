"""Kernels: each has its formula in torch, the definition and the CPU path, and a Triton kernel next door."""
