"""The model that runs in Triton's Python makes the pixels of `resnext.images`, bit for bit."""

from __future__ import annotations

import io
import json
import sys
import warnings
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import PIL.Image
import pytest
from google.protobuf import json_format, text_format
from numpy.typing import NDArray
from tritonclient.grpc.model_config_pb2 import ModelConfig

from resnext.artifact.files import Artifact
from resnext.errors import BadInput, UsageError
from resnext.images import pictures, preprocessing
from resnext.images.odd_pictures import odd_pictures
from resnext.images.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from resnext_export.triton.options import RepositoryOptions
from resnext_export.triton.preprocess import check_prepared
from resnext_export.triton.repository import write_repository

#: Gray and colored, square and oblong, with both interpolations.
WAYS = {
    "gray": Preprocessing(resize=8, crop=(8, 8), mean=(0.306,), std=(0.376,), color="L"),
    "imagenet": Preprocessing(resize=64, crop=(56, 56), mean=IMAGENET_MEAN, std=IMAGENET_STD),
    "oblong": Preprocessing(
        resize=40,
        crop=(24, 40),
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.3, 0.1),
        interpolation="bicubic",
    ),
}


class FakeTensor:
    """A tensor of Triton's Python backend."""

    def __init__(self, name: str, array: NDArray[Any]) -> None:
        self.name, self.array = name, array

    def as_numpy(self) -> NDArray[Any]:
        return self.array


class FakeError(str):
    """An error, of which the server makes HTTP 400 if it has this code, and 500 if it has none."""

    __slots__ = ()
    INVALID_ARG = 3

    def __new__(cls, text: str, code: int) -> FakeError:
        assert code == cls.INVALID_ARG
        return super().__new__(cls, text)


def fake_response(outputs: Any = (), error: str | None = None) -> SimpleNamespace:
    return SimpleNamespace(outputs=outputs, error=error)


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module ``model.py``, with the names that the backend gives it."""
    utils = ModuleType("triton_python_backend_utils")
    names = {
        "Tensor": FakeTensor,
        "TritonError": FakeError,
        "InferenceResponse": fake_response,
        "get_input_tensor_by_name": lambda request, name: request[name],
    }
    vars(utils).update(names)
    monkeypatch.setitem(sys.modules, utils.__name__, utils)
    path = Path(str(files("resnext_export.triton") / "preprocess_model.txt"))
    module = ModuleType("model")
    exec(compile(path.read_text(), str(path), "exec"), vars(module))
    return module


@pytest.fixture(autouse=True)
def _filters() -> Iterator[None]:
    """The model changes the filters of its process, which is a server's."""
    with warnings.catch_warnings():
        yield


def opened(backend: ModuleType, settings: dict[str, Any]) -> Any:
    model = backend.TritonPythonModel()
    config = {"parameters": {"settings": {"string_value": json.dumps(settings)}}}
    model.initialize({"model_config": json.dumps(config)})
    return model


def settings_of(way: Preprocessing, **changes: Any) -> dict[str, Any]:
    stored = {"baked": False, "dtype": "float32", "output": "input"}
    return {**way.model_dump(mode="json"), **stored, **changes}


def answer(model: Any, *pictures: bytes) -> Any:
    batch = np.array([[picture] for picture in pictures], object)
    (response,) = model.execute([{"PICTURE": FakeTensor("PICTURE", batch)}])
    return response


@pytest.mark.parametrize("way", WAYS)
def test_odd_pictures_become_the_same_bits(way: str, backend: ModuleType, tmp_path: Path) -> None:
    declared = WAYS[way]
    model = opened(backend, settings_of(declared))
    odd = odd_pictures(declared)
    response = answer(model, *(picture.data for picture in odd))
    assert response.error is None
    (tensor,) = response.outputs
    assert (tensor.name, tensor.array.dtype) == ("input", np.float32)
    pixels = []
    for picture in odd:
        (tmp_path / picture.name).write_bytes(picture.data)
        pixels.append(declared.load(tmp_path / picture.name))
    expected = declared.normalize(np.concatenate(pixels))
    assert tensor.array.tobytes() == expected.tobytes()
    assert tensor.array.shape == expected.shape


@pytest.mark.parametrize(("changes", "dtype"), [({"baked": True}, "uint8"), ({}, "float16")])
def test_the_network_gets_its_own_element_type(
    changes: dict[str, Any], dtype: str, backend: ModuleType, tmp_path: Path
) -> None:
    declared = WAYS["gray"]
    (picture, *_) = odd_pictures(declared)
    (tmp_path / picture.name).write_bytes(picture.data)
    pixels = declared.load(tmp_path / picture.name)
    expected = pixels if changes else declared.normalize(pixels).astype(dtype)
    model = opened(backend, settings_of(declared, **changes, dtype=dtype))
    (tensor,) = answer(model, picture.data).outputs
    assert tensor.array.dtype == dtype
    np.testing.assert_array_equal(tensor.array, expected)


def encoded(image: PIL.Image.Image, form: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def see_through() -> PIL.Image.Image:
    image = PIL.Image.new("RGBA", (8, 8), (1, 2, 3, 255))
    image.putpixel((0, 0), (1, 2, 3, 0))
    return image


DEEP = PIL.Image.fromarray((np.arange(64).reshape(8, 8) * 1000).astype(np.uint16))
GIF = {"save_all": True, "append_images": [PIL.Image.new("L", (8, 8), 9)]}
#: Pictures, and a word of why both refuse them; "" if both read them.
PICTURES: dict[str, tuple[bytes, str]] = {
    "16 bits": (encoded(DEEP), ""),
    "floating-point": (encoded(PIL.Image.new("F", (8, 8)), "TIFF"), "floating-point"),
    "see-through": (encoded(see_through()), "see-through"),
    "moving": (encoded(PIL.Image.new("L", (8, 8)), "GIF", **GIF), "several frames"),
    "oblong": (encoded(PIL.Image.new("L", (1, 30_000))), "oblong"),
    "bombs": (encoded(PIL.Image.new("1", (9_000, 9_000))), "pixels"),
    "no picture": (b"hello", ""),
    "cut off": (encoded(DEEP)[:-30], ""),
}


@pytest.mark.parametrize("name", PICTURES)
def test_what_one_side_refuses_the_other_refuses(
    name: str, backend: ModuleType, tmp_path: Path
) -> None:
    data, why = PICTURES[name]
    declared = Preprocessing(resize=256, crop=(224, 224), mean=(0.5,), std=(0.5,), color="L")
    response = answer(opened(backend, settings_of(declared)), encoded(DEEP), data)
    (tmp_path / "picture").write_bytes(data)
    if name == "16 bits":
        expected = declared.normalize(declared.load(tmp_path / "picture"))
        np.testing.assert_array_equal(response.outputs[0].array[1:], expected)
        return
    with pytest.raises(BadInput, match=why):
        declared.load(tmp_path / "picture")
    assert response.error.startswith("picture 1 of the request: ")
    assert why in response.error
    assert response.outputs == ()


def test_a_bad_picture_fails_its_own_request_alone(backend: ModuleType) -> None:
    model = opened(backend, settings_of(WAYS["gray"]))
    batches = [np.array([[data]], object) for data in (encoded(DEEP), b"hello", encoded(DEEP))]
    responses = model.execute([{"PICTURE": FakeTensor("PICTURE", batch)} for batch in batches])
    assert [response.error is None for response in responses] == [True, False, True]
    assert "0x" not in responses[1].error


def test_limits_are_those_of_the_toolkit(backend: ModuleType) -> None:
    ours = (pictures.FORMATS, pictures.MOST_PIXELS, preprocessing._MOST_PIXELS)
    assert ours == (backend.FORMATS, backend.MOST_PIXELS, backend.MOST_RESIZED)
    assert (backend.MOST_SCANS, backend.MOST_TEXT) == (pictures._MOST_SCANS, pictures._MOST_TEXT)


def test_the_repositorys_settings_are_the_artifacts(
    repository: Path, tiny: Artifact, backend: ModuleType, tmp_path: Path
) -> None:
    folder = repository / "tiny-preprocess"
    config = text_format.Parse((folder / "config.pbtxt").read_text(), ModelConfig())
    model = backend.TritonPythonModel()
    plain = json_format.MessageToDict(config, preserving_proto_field_name=True)
    model.initialize({"model_config": json.dumps(plain)})
    declared = tiny.manifest.prepared
    (picture, *_) = odd_pictures(declared)
    (tmp_path / picture.name).write_bytes(picture.data)
    (tensor,) = answer(model, picture.data).outputs
    expected = declared.normalize(declared.load(tmp_path / picture.name))
    np.testing.assert_array_equal(tensor.array, expected)
    assert (folder / "1" / "model.py").read_bytes() == (
        files("resnext_export.triton") / "preprocess_model.txt"
    ).read_bytes()


def test_nothing_but_numpy_and_pillow_is_imported() -> None:
    text = (files("resnext_export.triton") / "preprocess_model.txt").read_text()
    imported = {
        line.split()[1] for line in text.splitlines() if line.startswith(("import", "from"))
    }
    own = {"io", "json", "warnings", "triton_python_backend_utils"}
    assert imported == {"numpy", "PIL", *own}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preprocessing": None, "config": None, "model": None}, "nobody said how a picture"),
        ({"inputs": [{"name": "input", "dtype": "bfloat16", "shape": [None, 1, 8, 8]}]}, "bfloat"),
    ],
)
def test_what_cannot_be_prepared_is_refused(
    changes: dict[str, Any], message: str, changed: Any, tmp_path: Path
) -> None:
    artifact = changed(**changes)
    with pytest.raises(UsageError, match=message):
        check_prepared(artifact.manifest)
    with pytest.raises(UsageError, match=message):
        write_repository(
            artifact, tmp_path / "models", RepositoryOptions(with_preprocessing=True, name="m")
        )
