"""Triton kernels for ResNeXt on NVIDIA GPUs, and the network built on them."""

#: The oldest compute capability that the kernels are compiled and checked for.
OLDEST_GPU = (8, 0)
