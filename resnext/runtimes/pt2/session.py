"""AOTInductor packages (.pt2): compiled code and weights in one file, run without the model's
Python source.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from resnext.artifact.files import Artifact
from resnext.artifact.records import PackageRecord
from resnext.errors import BadArtifact, first_line
from resnext.machine.faults import environment_fault
from resnext.runtimes.buffers import DeviceMemory
from resnext.runtimes.delivered import delivered_from_package
from resnext.runtimes.registry import SessionOptions
from resnext.runtimes.session import Delivered
from resnext.runtimes.tensor_session import TensorSession
from resnext.storage import scratch_folder


class Pt2Session(TensorSession):
    """A package.

    Args:
        artifact: the package.
        copy: a checked copy of its file, needed until this returns.
        options: threads, and whether to use CUDA graphs.
        name: the backend's.
        record: the package's record.
        memory: where tensors live.

    Raises:
        BadArtifact: PyTorch cannot load the package.
    """

    def __init__(
        self,
        artifact: Artifact,
        copy: Path,
        options: SessionOptions,
        name: str,
        record: PackageRecord,
        memory: DeviceMemory,
    ) -> None:
        super().__init__(name, options, memory, artifact.manifest.batch_ranges)
        self.inputs, self.outputs = record.inputs, record.outputs
        self._record = record
        # The loader unpacks into TMPDIR, and leaves that behind if it fails. Compiled CUDA code
        # reads its kernels there when it first runs.
        self._unpacked = ExitStack()
        folder = self._unpacked.enter_context(scratch_folder())
        try:
            # Not torch._inductor.aoti_load_package, which compiles test programs for seconds, only
            # to warn (pytorch #191715). Single-threaded (True), because otherwise the loader
            # synchronizes, which a CUDA graph cannot capture.
            with _temporary_files_in(folder):
                self._loader: Any = torch._C._aoti.AOTIModelPackageLoader(
                    str(copy), "model", True, 1, -1
                )
        except RuntimeError as exc:
            self._unpacked.close()
            # Damaged or built with another PyTorch, it is the package that is at fault.
            of_package = ("damaged-library", "other-build", "old-glibc")
            raise environment_fault(exc, excepted=of_package) or BadArtifact(
                f"PyTorch cannot load {artifact.path}: {first_line(exc)}", hint="export it again"
            ) from exc

    def delivered(self) -> Delivered:
        """Element types in the compiler's input, and the library kernels that it chose.

        Compiled code does not say which precision it computes in: with fp16 on a CPU, kernels may
        compute in float32.
        """
        delivered = delivered_from_package(self._record, self._memory.device)
        return replace(delivered, notes={**delivered.notes, **self._device_notes()})

    def close(self) -> None:
        """Release graph, buffers and code."""
        super().close()
        self._loader = None
        self._unpacked.close()

    def _ready(self, images: torch.Tensor) -> torch.Tensor:
        return images

    def call(self, images: torch.Tensor) -> torch.Tensor:
        """Logits of ``images``."""
        result: torch.Tensor = self._loader.run([images])[0]
        return result


@contextmanager
def _temporary_files_in(folder: Path) -> Iterator[None]:
    """Inside the block, compiled libraries put their temporary files into ``folder``."""
    before = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = before
