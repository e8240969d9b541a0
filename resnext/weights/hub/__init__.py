"""Weights that others publish: their table, where they come from, and how they get here."""
