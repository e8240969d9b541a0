"""The command that makes an artifact, from its request."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from .options import RequestFields, options_of
from .registry import FORMATS
from .request import ExportRequest


def export_command(request: ExportRequest, output: Path | str) -> str:
    """``resnext-export`` with what ``request`` says and is not the default.

    Args:
        request: what to make.
        output: folder to make.
    """
    values: dict[str, Any] = request.record()
    values |= values.pop("options", {})
    options = options_of(RequestFields) | options_of(FORMATS[request.format].options)
    words = ["resnext-export"]
    if values.pop("format") != "onnx":
        words += ["--format", request.format]
    for name, value in values.items():
        flag = "--" + (options[name][0].flag or name).replace("_", "-")
        if isinstance(value, bool):
            words.append(flag)
        else:
            text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
            words += [flag, text]
    return shlex.join([*words, "--output", str(output)])
