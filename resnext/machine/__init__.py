"""This machine: processor, CUDA driver, GPU state."""
