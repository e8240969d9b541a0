"""Rules about names, versions, files, labels, devices and digests."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from resnext.artifact.manifest import MANIFEST_NAME
from resnext.errors import BadInput
from resnext.findings import Finding
from resnext.readers.files import MIB, MOST_MODEL, exists, file_sha256, is_file, read_file
from resnext.runtimes.openvino.ir import GRAPH_NAME, WEIGHTS_NAME, unpack_ovir

from .backends import BACKENDS
from .config import PREFIX
from .served import Served, enum_name

_MOST_LABELS = 16 * MIB


def name(model: Served) -> Iterator[Finding]:
    """The name is that of the folder."""
    if model.config.name not in ("", model.name):
        yield Finding(
            "name-differs",
            f"the name is {model.config.name!r}, and the folder's is {model.name!r}",
            "give both the same name",
            where=model.at("name"),
        )


def versions(model: Served) -> Iterator[Finding]:
    """There are versions, and those that the policy names."""
    if not model.versions:
        yield Finding(
            "version-missing",
            "there is no version folder, such as 1",
            "put the model file into the folder 1",
            where=model.name,
        )
        return
    for index, number in enumerate(model.config.version_policy.specific.versions):
        if number not in model.versions:
            has = ", ".join(map(str, model.versions))
            yield Finding(
                "version-policy",
                f"version {number} is to be served, and there is no such folder: {has}",
                "name a version that is there",
                where=model.at("version_policy", 0, "specific", 0, "versions", index),
            )


def model_file(model: Served) -> Iterator[Finding]:
    """The model file is where the backend looks for it."""
    if model.backend == "ensemble":
        return
    if not model.file:
        model.unchecked.append(f"{model.name}: the model file of backend {model.backend or '?'}")
        return
    engines = sorted(set(model.config.cc_model_filenames.values()))  # by kind of GPU
    field = "cc_model_filenames" if engines else "default_model_filename"
    for number in model.loaded:
        folder = model.folder / str(number)
        for file in engines or [model.file]:
            if not exists(folder / file):
                files = sorted(path.name for path in folder.iterdir())
                yield Finding(
                    "model-file-missing",
                    f"there is no {file} in version {number}, which has"
                    f" {', '.join(files[:6]) or 'nothing'}",
                    f"name the model file in {field}",
                    where=model.at(field),
                )


def labels(model: Served) -> Iterator[Finding]:
    """Each label file is there, with one name for each class."""
    for index, output in enumerate(model.config.output):
        if not output.label_filename:
            continue
        where = model.at("output", index, "label_filename")
        path = model.folder / output.label_filename
        if not is_file(path):
            yield Finding(
                "label-file-missing",
                f"there is no {output.label_filename} in {model.name}",
                "write it, one class name a line, or drop label_filename",
                where=where,
            )
            continue
        names = read_file(path, _MOST_LABELS)
        count = names.count(b"\n") + (names[-1:] not in (b"", b"\n"))
        dims, batched = tuple(output.dims), model.config.max_batch_size > 0
        if not batched and len(dims) > 1 and dims[0] > 1 and count == prod(dims[1:]):
            yield Finding(
                "label-batch",
                f"a request has {dims[0]} images, and with max_batch_size 0 the server"
                " classifies all of them as one: names of the first, and none of the others",
                "drop label_filename, or export a range of batches",
                where=where,
            )
            continue
        # The server classifies all that it does not batch as one.
        sizes = dims[1:] if not batched and dims[:1] == (-1,) else dims
        classes = prod(sizes)
        if sizes and min(sizes) > 0 and count != classes:
            yield Finding(
                "label-count",
                f"{output.label_filename} has {count} names, and {output.name} has {classes}"
                " classes: the server answers with the names of others, or with none",
                "write one name for each class, in their order",
                where=where,
            )


def backend(model: Served) -> Iterator[Finding]:
    """The backend loads files of this kind."""
    for number, tensors in model.tensors.items():
        if not model.backend:
            continue
        # Without a manifest only ONNX says what it takes.
        kind = "onnx" if tensors.artifact is None else tensors.artifact.manifest.kind
        able = {row.name for name, row in BACKENDS.items() if name == kind}
        if kind == "onnx":
            able.add("openvino")  # which reads ONNX files, too
        if model.known_backend is not None and model.backend not in able:
            yield Finding(
                "backend-differs",
                f"version {number} is of kind {kind}, which {model.backend} does not load",
                f"use backend {' or '.join(sorted(able)) or 'of another server'}",
                where=model.at("backend" if model.config.backend else "platform"),
            )


def device(model: Served) -> Iterator[Finding]:
    """Instances are on a device that the backend, and the artifact's proof, know."""
    known = model.known_backend
    if known is None:
        return
    for index, group in enumerate(model.config.instance_group):
        kind, where = enum_name(group, "kind"), model.at("instance_group", index, "kind")
        if known.gpu is False and kind == "KIND_GPU":
            yield Finding(
                "gpu-for-cpu",
                f"{known.name} runs on a CPU alone, and its instances are KIND_GPU",
                "use KIND_CPU",
                where=where,
            )
        if known.gpu is True and kind == "KIND_CPU":
            yield Finding(
                "cpu-for-gpu",
                f"{known.name} runs on a GPU alone, and its instances are KIND_CPU",
                "use KIND_GPU",
                where=where,
            )
        checks = [t.artifact.manifest.check for t in model.tensors.values() if t.artifact]
        proven = {check.backend for check in checks if check is not None}
        if known.gpu is None and kind == "KIND_GPU" and proven and not any(map(_on_gpu, proven)):
            yield Finding(
                "gpu-for-cpu",
                f"instances are KIND_GPU, and the artifact was checked on {min(proven)} alone",
                "use KIND_CPU, or check the artifact on a GPU first",
                "warning",
                where,
            )


def _on_gpu(runtime: str) -> bool:
    return "cuda" in runtime or "trt" in runtime


def digests(model: Served) -> Iterator[Finding]:
    """What the parameters say about the files is true."""
    for number in model.loaded:
        folder, tensors = model.folder / str(number), model.tensors.get(number)
        artifact = None if tensors is None else tensors.artifact
        if artifact is None and exists(folder / MANIFEST_NAME):
            continue  # damaged, which was said
        for key, file in (("file_sha256", model.file), ("manifest_sha256", MANIFEST_NAME)):
            recorded = model.parameter(PREFIX + key)
            if key == "file_sha256" and artifact is not None:
                file = artifact.manifest.file
            if recorded and is_file(folder / file) and file_sha256(folder / file) != recorded:
                yield Finding(
                    "digest-differs",
                    f"{file} of version {number} is not the file that the configuration was"
                    f" written for (sha256 {recorded[:12]})",
                    "write the repository again",
                    where=model.at_key("parameters", PREFIX + key),
                )
        yield from _unpacked(model, number)


def _unpacked(model: Served, number: int) -> Iterator[Finding]:
    """What OpenVINO loads is what the artifact holds."""
    tensors = model.tensors.get(number)
    if tensors is None or tensors.artifact is None or tensors.artifact.manifest.kind != "openvino":
        return
    artifact = tensors.artifact
    graph, weights = unpack_ovir(artifact.read_writable(), str(artifact.path))
    for file, data in ((GRAPH_NAME, graph), (WEIGHTS_NAME, weights.tobytes())):
        path = artifact.directory / file
        try:
            same = read_file(path, MOST_MODEL) == data
        except BadInput:
            same = False
        if not same:
            yield Finding(
                "digest-differs",
                f"{file} of version {number} is not what {artifact.manifest.file} holds",
                "write the repository again",
                where=f"{model.name}/{number}/{file}",
            )


RULES = (name, versions, model_file, labels, backend, device, digests)
