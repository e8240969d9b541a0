"""Weights: read from a checkpoint, shipped, or seeded; checked against the configuration."""
