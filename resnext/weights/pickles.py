"""Pickled checkpoints, of which nothing runs: what may be in them is allowed by name.

`torch.load` with ``weights_only=True`` makes tensors and plain Python values. Trainers put more
beside the tensors: the command line (`argparse.Namespace`: torchvision's reference script, timm's
``train.py``) and numbers that NumPy computed (timm's ``metric``, learning rates of schedulers).
"""

from __future__ import annotations

import argparse
import pickle
import pickletools
import re
import warnings
from collections.abc import Callable
from typing import Any, BinaryIO

import torch

from resnext.errors import BadWeights, first_line

from .file_kinds import CONVERT, CUT_SHORT

#: Element types of the NumPy numbers that are read.
_NUMBERS = re.compile(r"[<=|]?(b1|[iu][1248]|f[248])")
#: What torch says of a name that is not allowed.
_NEEDS = re.compile(
    r"(?:GLOBAL ([\w.<>]+) (?:was not|whose module)|(?:function|allowlisted\S*.*got) <?([^>]+))"
)

#: What is looked at for a name.
_FIRST_BYTES = 1 << 16


class NumberType:
    """Takes the place of `numpy.dtype`, which a pickle could change for the whole process.

    Args:
        name: as NumPy spells it, ``"f8"``.
        _: alignment, and whether it is a copy.

    Raises:
        ValueError: not the type of a number.
    """

    def __init__(self, name: object, *_: object) -> None:
        if not isinstance(name, str) or not _NUMBERS.fullmatch(name):
            raise ValueError(f"a NumPy value of type {str(name)[:40]!r} is no number")
        self.name = name.lstrip("<=|")

    def __setstate__(self, state: object) -> None:
        """Byte order and other details: little-endian is the only one."""


def number(dtype: NumberType, data: bytes | str) -> bool | int | float:
    """The Python number that a NumPy scalar in a pickle stands for.

    Args:
        dtype: its type.
        data: its bytes, little-endian; a text has one of them in each character.

    Raises:
        ValueError: not as many bytes as the type has.
    """
    import numpy as np

    raw = data.encode("latin-1") if isinstance(data, str) else data
    values = np.frombuffer(raw, np.dtype(f"<{dtype.name}"))
    if len(values) != 1:
        raise ValueError("a NumPy number does not have the bytes of its type")
    value: bool | int | float = values[0].item()
    return value


#: Allowed beside what torch itself allows, under the names that NumPy 1 and 2 write.
ALLOWED: tuple[tuple[Callable[..., Any], str], ...] = (
    (argparse.Namespace, "argparse.Namespace"),
    (NumberType, "numpy.dtype"),
    (number, "numpy.core.multiarray.scalar"),
    (number, "numpy._core.multiarray.scalar"),
)


def read_pickle(file: BinaryIO, path: object) -> Any:
    """What `torch.save` wrote, in either of its forms.

    Args:
        file: at its start.
        path: its name, for messages.

    Raises:
        BadWeights: it needs classes or functions that are not allowed, and names the first; or it
            cannot be read.
    """
    try:
        # About an unexpected pickle protocol, before it refuses, and about nested tensors.
        with warnings.catch_warnings(), torch.serialization.safe_globals(list(ALLOWED)):
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as exc:
        name = _needed(exc) or _first_global(file)
        needs = f" (it needs {name})" if name else ""
        state = "save only its state_dict(), preferably as .safetensors"
        raise BadWeights(
            f"{path} contains more than tensors{needs} and was refused unread, because a pickle can"
            " run code when it is loaded",
            hint=CONVERT if name.startswith("torch.distributed.") else state,
        ) from exc
    except Exception as exc:  # a damaged pickle can raise anything
        raise BadWeights(
            f"{path} is not a readable PyTorch checkpoint: {first_line(exc)}",
            hint=CUT_SHORT,
        ) from exc


def _needed(exc: pickle.UnpicklingError) -> str:
    """The name that was refused, if torch says it."""
    match = _NEEDS.search(str(exc))
    return _printable(next(filter(None, match.groups()), "") if match else "")


def _first_global(file: BinaryIO) -> str:
    """The first name in a pickle of protocol 4 or later, which torch does not read at all."""
    file.seek(0)
    texts: list[str] = []
    try:
        for operation, value, _ in pickletools.genops(file.read(_FIRST_BYTES)):
            if operation.name == "STACK_GLOBAL":
                return _printable(".".join(texts[-2:]))
            if isinstance(value, str):
                texts.append(value)
    except Exception:  # a damaged pickle can raise anything
        return ""
    return ""


def _printable(name: str) -> str:
    return "".join(c for c in name if c.isprintable() and c != "`")[:80].strip()
