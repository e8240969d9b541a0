"""Commands: the only modules that import click."""
