"""Kept runs over time: an index of their files, series of like rows, steps, a gate."""
