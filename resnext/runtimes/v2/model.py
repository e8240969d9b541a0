"""What is known of a served model, and whether it can be the artifact that it is held against."""

from __future__ import annotations

from dataclasses import dataclass

from resnext.artifact.files import Artifact
from resnext.artifact.manifest import Manifest
from resnext.artifact.specs import BatchRange, TensorSpec
from resnext.errors import BadArtifact, SessionFailed, printable
from resnext.runtimes.address import Address

from .answers import Metadata, ModelConfig, ServerMetadata, Tensor
from .tensors import DTYPES, described
from .transport import Transport

#: Parameter of a served model's configuration that holds the sha256 of the artifact's file.
DIGEST = "resnext.file_sha256"


@dataclass(frozen=True)
class ServedModel:
    """A model as its server describes it.

    Attributes:
        address: where it is.
        server: the server.
        metadata: its tensors.
        config: how it is run; None if the server does not tell.
    """

    address: Address
    server: ServerMetadata
    metadata: Metadata
    config: ModelConfig | None = None

    @classmethod
    def asked(cls, address: Address, transport: Transport) -> ServedModel:
        """Ask the server.

        Raises:
            SessionFailed: it is not there, has no such model, or the model is not ready.
        """
        if problem := transport.ready():
            raise _not_ready(address, problem, transport)
        return cls(address, transport.server(), transport.metadata(), transport.config())

    @property
    def digest(self) -> str:
        """The sha256 of the file that it is said to be made of; "" if nothing is said."""
        texts = {} if self.config is None else self.config.parameters
        if DIGEST in texts:
            return texts[DIGEST].string_value
        return str((self.metadata.parameters or {}).get(DIGEST, ""))

    @property
    def most_images(self) -> int | None:
        """The largest batch of one request; None if the server sets no limit, or does not tell."""
        if self.config is not None and self.config.max_batch_size > 0:
            return self.config.max_batch_size
        firsts = [tensor.shape[0] for tensor in self.metadata.inputs if tensor.shape]
        return firsts[0] if firsts and firsts[0] > 0 else None

    @property
    def caches(self) -> bool:
        """Whether a cache may answer instead of the network."""
        return self.config is not None and self.config.response_cache.enable

    def batch_ranges(self, ranges: tuple[BatchRange, ...]) -> tuple[BatchRange, ...]:
        """``ranges`` of an artifact, cut to what the server takes.

        Raises:
            BadArtifact: nothing is left.
        """
        most = self.most_images
        if most is None:
            return ranges
        cut = tuple(
            BatchRange(
                min=each.min,
                opt=min(each.opt, most),
                max=most if each.max is None else min(each.max, most),
            )
            for each in ranges
            if each.min <= most
        )
        if not cut:
            takes = ", ".join(map(str, ranges))
            raise BadArtifact(
                f"{self.address.server} takes at most {most} images for {self.address.model} in a"
                f" request, and the artifact takes batch {takes}",
                hint="serve it with a larger max_batch_size",
            )
        return cut

    def notes(self) -> dict[str, str]:
        """What the server says, by name."""
        server, config = self.server, self.config
        notes = {"server": f"{server.name} {server.version}".strip() or "unknown"}
        notes["platform"] = self.metadata.platform or (config.platform if config else "")
        if config is None:
            notes["configuration"] = "this server does not tell it"
        else:
            notes["server backend"] = config.backend
            groups = config.instance_group
            notes["instances"] = ", ".join(
                f"{group.count} on {group.kind.removeprefix('KIND_')}" for group in groups
            )
            notes["dynamic batching"] = "on" if config.dynamic_batching is not None else "off"
            notes["most images in a request"] = str(self.most_images or "unlimited")
        return {name: printable(value) for name, value in notes.items() if value}


def hold(served: ServedModel, artifact: Artifact) -> str:
    """Hold a served model against ``artifact``; returns what is known of its file, in words.

    Raises:
        BadArtifact: it takes or gives other tensors, or says that it is made of another file; the
            message says both.
    """
    manifest, address = artifact.manifest, served.address
    where = f"{address.model} on {address.server}"
    pairs = (
        ("takes", served.metadata.inputs, manifest.inputs),
        ("gives", served.metadata.outputs, manifest.outputs),
    )
    for verb, theirs, ours in pairs:
        if theirs and not _alike(theirs, ours):
            raise BadArtifact(
                f"{where} {verb} {_listed(theirs)}, and {artifact.path} {_listed(ours)}",
                hint="name the model that was made of this artifact in the URL, or its `artifact`",
            )
    if served.digest and served.digest != manifest.file_sha256:
        raise BadArtifact(
            f"{where} is made of a file with sha256 {printable(served.digest)[:12]}, and"
            f" {artifact.path} has {manifest.file_sha256[:12]}",
            hint="serve this artifact, or name the one that is served in `artifact`",
        )
    return _known(served, manifest)


def _known(served: ServedModel, manifest: Manifest) -> str:
    described_all = bool(served.metadata.inputs and served.metadata.outputs)
    parts = [
        f"the server says sha256 {manifest.file_sha256[:12]}, as here"
        if served.digest
        else "the server does not say which file it runs"
    ]
    if not described_all:
        parts.append("nor what it takes and gives")
    return ", ".join(parts)


def _alike(theirs: tuple[Tensor, ...], ours: tuple[TensorSpec, ...]) -> bool:
    """Whether names, element types and known sizes are the same, in any order. The batch may be
    fixed on one side.
    """
    if {tensor.name for tensor in theirs} != {spec.name for spec in ours}:
        return False
    named = {tensor.name: tensor for tensor in theirs}
    for spec in ours:
        tensor = named[spec.name]
        if DTYPES.get(tensor.datatype) != spec.dtype:
            return False
        if not tensor.shape:  # some servers do not tell
            continue
        if len(tensor.shape) != len(spec.shape):
            return False
        sizes = list(zip(tensor.shape, spec.shape, strict=True))
        if any(there != here for there, here in sizes[1:] if there > 0 and here is not None):
            return False
    return True


def _listed(tensors: tuple[Tensor, ...] | tuple[TensorSpec, ...]) -> str:
    return printable(", ".join(map(described, tensors)))


def _not_ready(address: Address, problem: str, transport: Transport) -> SessionFailed:
    """Why a model is not ready: there is none of that name, or what the server says."""
    index = transport.index()
    entry = next((each for each in index or () if each.name == address.model), None)
    if index is not None and entry is None:
        names = ", ".join(sorted({each.name for each in index})) or "none"
        return SessionFailed(
            f"{address.server} has no model {address.model!r}; it has {printable(names)[:500]}",
            hint="name one of them as the path of the URL",
        )
    if entry is not None and address.version and entry.state == "READY":
        has = ", ".join(str(each.version) for each in index or () if each.name == entry.name)
        return SessionFailed(
            f"{address.server} has no version {address.version} of {address.model} that is ready;"
            f" it has {printable(has)[:200] or 'another'}",
            hint="name one of them, or none for the version that the server chooses",
        )
    reason = ": ".join(filter(None, (entry.state, entry.reason))) if entry else ""
    return SessionFailed(
        f"{address.model} is not ready on {address.server}: {printable(reason or problem)[:500]}",
        hint="see the server's log, or wait until it has loaded the model",
    )
