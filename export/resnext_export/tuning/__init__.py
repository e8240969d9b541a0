"""Choices that are timed on this machine."""
