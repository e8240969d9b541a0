"""Stand-ins for libraries that need a GPU or a compiler; only tests use them."""
