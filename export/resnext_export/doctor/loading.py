"""In a child process: load the libraries of ONNX Runtime's CUDA provider as a session would."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence

from resnext.errors import first_line


def answers(names: Sequence[str]) -> Iterator[str]:
    """Load each of ``names``.

    Yields:
        The loader's error, or "".
    """
    import resnext.runtimes.pytorch.door  # noqa: F401  # PyTorch's wheels bring most of them
    from resnext.runtimes.ort.cuda_probe import preload_libraries

    preload_libraries()
    for name in names:
        try:
            ctypes.CDLL(name)
        except OSError as exc:
            yield first_line(exc)
        else:
            yield ""
