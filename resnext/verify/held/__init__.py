"""A file's graph, stored weights and scales, held against the network. Nothing is run."""
