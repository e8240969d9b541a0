"""Triton kernels for ResNeXt on NVIDIA GPUs, and the network built on them."""
