"""Batch integrity: the laws, one session under examination, and the check."""
