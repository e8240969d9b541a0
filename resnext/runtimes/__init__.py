"""Runtimes by name, and the sessions that they open."""
