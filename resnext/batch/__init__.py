"""Batch inference: shards of pictures in, parts with rows and receipts out."""
