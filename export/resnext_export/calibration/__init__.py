"""Ranges of activations, for quantization and for half precision."""
