"""The one clock, and what is built on it."""
