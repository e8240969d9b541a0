"""Model repositories for Triton and KServe: written of checked artifacts, and checked."""
