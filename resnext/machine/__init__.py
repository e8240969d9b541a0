"""The machine at hand: processor, CUDA driver, GPU state."""
