"""The calibration images that a request names."""

from __future__ import annotations

from resnext.images.sources import ImageSource, image_source
from resnext.weights.spec import Weights

from .options import IMAGES
from .request import ExportRequest


def calibration_images(request: ExportRequest, weights: Weights) -> ImageSource:
    """The images to calibrate the network of ``weights`` on.

    Raises:
        UsageError: none were named, and the weights come with none.
        BadInput: no such folder, no or too few pictures in it, or an unreadable one.
        MissingRequirement: the package with the data set is not installed.
    """
    return image_source(
        request.images(weights),
        weights.preprocessing,
        split="calibration",
        limit=request.calibration_images or IMAGES,
    )
