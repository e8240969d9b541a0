"""Conversions between formats, each named by its ends."""
