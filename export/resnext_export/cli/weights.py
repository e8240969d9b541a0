"""The table behind ``resnext-export --list-weights``."""

from __future__ import annotations

import json

import click
from rich.console import Console
from rich.table import Table

from resnext.storage import write_text
from resnext.weights.hub.published import PUBLISHED


def print_weights(json_path: str | None) -> None:
    """Print every published checkpoint of the family as a table, and write the rows as JSON.

    Args:
        json_path: file to write to; ``-`` prints JSON on stdout instead of the table.
    """
    if json_path is not None:
        rows = [
            {
                "weights": row.spec,
                "model": row.model,
                "preprocessing": row.preprocessing.model_dump(mode="json"),
                "top1": row.top1,
                "license": row.license,
                "commercial_use": row.commercial,
                "source": row.source,
            }
            for row in PUBLISHED.values()
        ]
        write_text(json_path, json.dumps(rows, indent=2) + "\n")
    if json_path == "-":
        return

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("--weights", no_wrap=True)
    for heading in ("input", "resize"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("interpolation", no_wrap=True)
    table.add_column("top-1 %", justify="right", no_wrap=True)
    table.add_column("license", no_wrap=True)
    for row in PUBLISHED.values():
        height, width = row.preprocessing.crop
        table.add_row(
            row.spec,
            f"{height}x{width}",
            str(row.preprocessing.resize),
            row.preprocessing.interpolation,
            f"{row.top1:.2f}",
            row.license,
        )
    Console(width=None if Console().is_terminal else 120).print(table)
    click.echo(
        "\ntop-1 is the published one, on ImageNet's validation images with this preprocessing."
        "\ncc-by-nc licenses allow no commercial use. Any other repository in timm's layout:"
        " hf:OWNER/REPO[@REVISION]."
    )
