"""The table behind ``resnext-export --list-models``."""

from __future__ import annotations

import json

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from resnext.network import layers
from resnext.network.config import VARIANTS
from resnext.network.published import FACTS
from resnext.storage import write_text
from resnext.weights.shipped import SHIPPED


def print_models(json_path: str | None) -> None:
    """Print every variant as a table, and write the rows as JSON.

    Args:
        json_path: file to write to; ``-`` prints JSON on stdout instead of the table.
    """
    shipped = {weights.config: name for name, weights in SHIPPED.items()}
    rows = []
    for name, config in VARIANTS.items():
        rows.append(
            {
                "model": name,
                "input": [config.in_channels, *config.input_size],
                "classes": config.num_classes,
                "depths": list(config.depths),
                "cardinality": config.cardinality,
                "bottleneck_width": config.bottleneck_width,
                "parameters": layers.parameters(config),
                "macs": layers.macs(config),
                "published": FACTS[name].printed,
                "stages": layers.stage_templates(config),
                "shipped_weights": shipped.get(config),
            }
        )
    if json_path is not None:
        write_text(json_path, json.dumps(rows, indent=2) + "\n")
    if json_path == "-":
        return

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("model", no_wrap=True)
    for heading in ("input", "C x d", "parameters", "GMACs"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("weights", no_wrap=True)
    table.add_column("published", no_wrap=True)
    for row, config in zip(rows, VARIANTS.values(), strict=True):
        table.add_row(
            str(row["model"]),
            "x".join(map(str, (config.in_channels, *config.input_size))),
            f"{config.cardinality} x {config.bottleneck_width}d",
            f"{layers.parameters(config):,}",
            f"{layers.macs(config) / 1e9:.3f}",
            str(row["shipped_weights"] or "seeded"),
            str(row["published"]),
        )
    console = Console(width=None if Console().is_terminal else 120)
    console.print(table)
    console.print(_paper_table())


def _paper_table() -> Table:
    """The paper's Table 1, from the configurations: ResNet-50 against ResNeXt-50 32x4d."""

    compared = ("resnet50", "resnext50_32x4d")
    table = Table(
        box=None,
        pad_edge=False,
        header_style="bold",
        title="\nThe paper's Table 1, counted here",
        title_justify="left",
    )
    for heading in ("stage", "output", *compared):
        table.add_column(heading, no_wrap=True)
    templates = [layers.stage_templates(VARIANTS[name]) for name in compared]
    for stage, blocks in enumerate(zip(*templates, strict=True)):
        size = blocks[0].partition(":")[0]
        table.add_row(
            f"conv{stage + 2}", size, *(escape(text.partition(": ")[2]) for text in blocks)
        )
    table.add_row(
        "params", "", *(f"{layers.parameters(VARIANTS[name]) / 1e6:.1f} M" for name in compared)
    )
    table.add_row(
        "FLOPs", "", *(f"{layers.macs(VARIANTS[name]) / 1e9:.1f} G (MACs)" for name in compared)
    )
    return table
