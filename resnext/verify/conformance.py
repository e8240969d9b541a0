"""The conformance kit of an artifact: odd pictures with their exact pixels and logits, for people
who port the preprocessing to another language.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from resnext.artifact.files import KIT_NAME, Artifact
from resnext.artifact.specs import Strict
from resnext.errors import BadArtifact
from resnext.images.odd_pictures import odd_pictures
from resnext.images.preprocessing import Preprocessing
from resnext.readers.archives import Entry, read_entries, take
from resnext.readers.arrays import read_array
from resnext.readers.files import MIB, exists, open_file
from resnext.readers.strict_json import parse_json
from resnext.weights.spec import Weights

from .eager import reference_logits
from .pixels import JPEG, ROUNDING

_MOST = 256 * MIB
_RECORD, _PIXELS, _LOGITS, _README = "kit.json", "pixels.npy", "logits.npy", "README.txt"
_AGAIN = "export the artifact again with `conformance_kit`"

#: Of the kit; with fields for `str.format`.
_TEXT = Path(__file__).with_name("conformance_kit.txt")


class PictureRecord(Strict):
    """One picture of a kit.

    Attributes:
        name: of its file, in ``pictures/``.
        about: what is odd about it.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9-]+\.(jpg|png)$")
    about: str


class KitRecord(Strict):
    """What ``kit.json`` says.

    Attributes:
        format_version: version of the kit's format.
        preprocessing: that the pixels are of.
        weights_sha256: digest of the weights that the logits are of.
        pictures: in the order of the arrays.
    """

    format_version: Literal[1] = 1
    preprocessing: Preprocessing
    weights_sha256: str
    pictures: Annotated[tuple[PictureRecord, ...], Field(min_length=1, max_length=64)]


@dataclass(frozen=True, eq=False)
class Kit:
    """A conformance kit.

    Attributes:
        record: what it says of itself.
        pictures: the files' bytes.
        pixels: N x H x W x C, uint8.
        logits: N x classes, float64: eager PyTorch's.
    """

    record: KitRecord
    pictures: tuple[bytes, ...]
    pixels: NDArray[np.uint8]
    logits: NDArray[np.float64]

    @property
    def names(self) -> tuple[str, ...]:
        """Of the pictures."""
        return tuple(picture.name for picture in self.record.pictures)


def write_kit(path: Path, weights: Weights) -> None:
    """Make a kit for the preprocessing and network of ``weights``: the same bytes again with the
    same libraries.

    Raises:
        OSError: it cannot be written.
    """
    preprocessing = weights.preprocessing
    pictures = odd_pictures(preprocessing)
    pixels = pixels_of_files({each.name: each.data for each in pictures}, preprocessing)
    logits = reference_logits(weights, preprocessing.normalize(pixels)).astype(np.float64)
    record = KitRecord(
        preprocessing=preprocessing,
        weights_sha256=weights.sha256,
        pictures=tuple(PictureRecord(name=each.name, about=each.about) for each in pictures),
    )
    text = _TEXT.read_text(encoding="utf-8").format(
        shape=" x ".join(map(str, pixels.shape)),
        classes=" x ".join(map(str, logits.shape)),
        color=preprocessing.color,
        resize=preprocessing.resize,
        interpolation=preprocessing.interpolation,
        crop=" x ".join(map(str, preprocessing.crop)),
        mean=", ".join(f"{value:g}" for value in preprocessing.mean),
        std=", ".join(f"{value:g}" for value in preprocessing.std),
        rounding=ROUNDING,
        jpeg=JPEG,
    )
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in (
            (_README, text.encode()),
            (_RECORD, (record.model_dump_json(indent=2) + "\n").encode()),
            (_PIXELS, _npy(pixels)),
            (_LOGITS, _npy(logits)),
            *((f"pictures/{each.name}", each.data) for each in pictures),
        ):
            archive.writestr(zipfile.ZipInfo(name), data)  # with no time: the same bytes again


def pixels_of_files(
    pictures: Mapping[str, bytes], preprocessing: Preprocessing
) -> NDArray[np.uint8]:
    """Pictures, by the name of their file, as the network's pixels, N x H x W x C.

    Raises:
        BadInput: one is not a picture that can be read.
    """
    with TemporaryDirectory(prefix="resnext-") as folder:
        loaded = []
        for name, data in pictures.items():
            path = Path(folder) / name
            path.write_bytes(data)
            loaded.append(preprocessing.load(path))
    return np.concatenate(loaded)


def read_kit(artifact: Artifact) -> Kit:
    """The kit beside an artifact.

    Raises:
        BadArtifact: there is none, or it is damaged, or of another network or preprocessing.
    """
    path = artifact.directory / KIT_NAME
    if not exists(path):
        raise BadArtifact(f"no {KIT_NAME} in {artifact.directory}", hint=_AGAIN)
    with open_file(path, _MOST, BadArtifact) as file:
        try:
            entries = read_entries(file)
            record = KitRecord.model_validate_json(_entry(file, entries, _RECORD), strict=True)
            pictures = tuple(
                _entry(file, entries, f"pictures/{each.name}") for each in record.pictures
            )
            pixels, logits = (
                read_array(io.BytesIO(_entry(file, entries, name))) for name in (_PIXELS, _LOGITS)
            )
        except ValueError as exc:  # pydantic's is one, too
            reason = exc.errors()[0]["msg"] if isinstance(exc, ValidationError) else exc
            raise BadArtifact(f"{path} is not a conformance kit: {reason}", hint=_AGAIN) from exc
    kit = Kit(record, pictures, pixels, logits)
    _check(kit, artifact, path)
    return kit


def _entry(file: Any, entries: Mapping[str, Entry], name: str) -> bytes:
    if name not in entries:
        raise ValueError(f"it has no {name}")
    data = take(file, entries[name])
    if name == _RECORD:
        parse_json(data)  # strictly
    return data


def _check(kit: Kit, artifact: Artifact, path: Path) -> None:
    manifest, record = artifact.manifest, kit.record
    config = manifest.config
    if manifest.preprocessing is None or config is None:
        raise BadArtifact(f"{artifact.path} is of a network from elsewhere, and {path} is not")
    count, preprocessing = len(record.pictures), manifest.preprocessing
    shape = (count, *preprocessing.crop, len(preprocessing.mean))
    for what, same in (
        ("preprocessing", record.preprocessing == preprocessing),
        ("weights", record.weights_sha256 == manifest.weights.sha256),
        ("shape of pixels", kit.pixels.shape == shape and kit.pixels.dtype == np.uint8),
        (
            "shape of logits",
            kit.logits.shape == (count, config.num_classes)
            and kit.logits.dtype == np.float64
            and bool(np.isfinite(kit.logits).all()),
        ),
    ):
        if not same:
            raise BadArtifact(f"{path} has another {what} than the artifact", hint=_AGAIN)
    here = pixels_of_files(dict(zip(kit.names, kit.pictures, strict=True)), preprocessing)
    away = np.abs(here.astype(int) - kit.pixels).max(axis=(1, 2, 3))
    for name, most in zip(kit.names, away.tolist(), strict=True):
        if most > (JPEG if name.endswith(".jpg") else 0):
            raise BadArtifact(
                f"{path}: its pixels of {name} differ by {most} gray levels from those of its"
                " picture",
                hint=_AGAIN,
            )


def _npy(array: NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()
