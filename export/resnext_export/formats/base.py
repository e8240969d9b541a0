"""How one format is built."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from resnext.artifact.files import Artifact
from resnext.artifact.manifest import Manifest
from resnext.verify.subject import Network
from resnext.weights.spec import Weights
from resnext_export.publish import Built
from resnext_export.registry import FORMATS
from resnext_export.request import ExportRequest


class Builder(ABC):
    """How one format is built; `resnext_export.registry.Format.builder` names the class."""

    def prepare(self, request: ExportRequest) -> str:
        """Refuse a request that cannot succeed, before any work is done.

        Returns:
            Name of the format that will be made: ``trt`` becomes ``trt-rtx`` if only that is
            installed.

        Raises:
            ResnextError: an option, library or device that ``request`` needs is missing.
        """
        return request.format

    def key(self, request: ExportRequest, weights: Network) -> Mapping[str, Any]:  # noqa: ARG002
        """Facts besides request and source that change the bytes: versions, machine, images."""
        return {}

    def usable(self, manifest: Manifest) -> bool:
        """Whether a stored artifact can be reused here."""
        return manifest.check is not None

    @abstractmethod
    def build(
        self,
        source: Weights | Artifact,
        weights: Network,
        request: ExportRequest,
        folder: Path,
        *,
        check: bool,
        say: Callable[[str], None],
        cache: Path | None,
    ) -> Built:
        """Write the format's file into ``folder``.

        Args:
            source: what to build from, of the type that ``Format.source`` names.
            weights: the weights of ``source``, or the ONNX file from elsewhere that it is.
            request: the validated request.
            folder: where the file goes.
            check: whether `Built.prove` will be called.
            say: called with each line that the user should see before the work is done.
            cache: folder for data that speeds up later builds, or None.
        """


def builder_for(request: ExportRequest) -> Builder:
    """Import the builder of the format that ``request`` names."""
    module, _, name = FORMATS[request.format].builder.partition(":")
    return cast("Builder", getattr(import_module(module), name)())
