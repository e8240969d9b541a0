"""The command that makes an artifact, and the group widths that a timed choice found."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from resnext.artifact.manifest import Manifest
from resnext.network.layers import layers

from .options import RequestFields, options_of
from .registry import FORMATS
from .request import ExportRequest


def export_command(request: ExportRequest, output: Path | str, *, check: bool = True) -> str:
    """``resnext-export`` with the format and whatever else is not the default.

    Args:
        request: what to make.
        output: folder to make.
        check: compare the file with PyTorch, as an export does.
    """
    values: dict[str, Any] = request.record()
    values |= values.pop("options", {})
    options = options_of(RequestFields) | options_of(FORMATS[request.format].options)
    words = ["resnext-export", "--format", values.pop("format")]
    for name, value in values.items():
        flag = "--" + (options[name][0].flag or name).replace("_", "-")
        if isinstance(value, bool):
            words.append(flag)
        else:
            text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
            words += [flag, text]
    words += ["--output", str(output)]
    return shlex.join(words if check else [*words, "--no-check"])


def recorded_widths(manifest: Manifest) -> str | None:
    """The merged groups of an artifact as ``merge_groups`` spells them, ``layer1=16,layer3=32``, so
    that what ``auto`` chose by timing is made again without; None if nothing was merged.
    """
    if manifest.merged is None or not manifest.merged.groups:
        return None
    inputs = {layer.name: layer.inputs for layer in layers(manifest.network)}
    widths: dict[str, int] = {}
    for name, groups in manifest.merged.groups.items():
        stage, width = name.partition(".")[0], inputs[name] // groups
        widths[stage] = min(width, widths.get(stage, width))
    return ",".join(f"{stage}={width}" for stage, width in widths.items())
