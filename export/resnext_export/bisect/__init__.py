"""Finding the blocks that a low-precision artifact loses by, and mending it."""
