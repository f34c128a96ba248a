"""The answer for one image: classes, probabilities, heat map, similar training images."""

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from thaw.bundle.doubt import Answers
from thaw.bundle.model import Bundle
from thaw.errors import DataError
from thaw.images.decode import BadImageError, decode_picture
from thaw.images.encode import data_uri, encode
from thaw.images.files import open_image
from thaw.images.overlay import colour_heat
from thaw.images.preprocessing import Normalise, Preprocessing
from thaw.nets.heatmaps import heat_maps
from thaw.serve.similar import SimilarImages

MAX_PIXELS = 50_000_000
"""Larger images are refused before they are decoded."""
SHOWN = 6
"""Similar training images."""


def decode_upload(content: bytes, preprocessing: Preprocessing, decode: str) -> NDArray[np.uint8]:
    """Return an uploaded image as uint8 (height, width, 3). Raises DataError, saying why, where it is refused."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata, and of sizes that are refused below
            with open_image(content) as image:
                width, height = image.size
    except Image.DecompressionBombError as error:
        raise DataError(f"the image has too many pixels; send one of at most {MAX_PIXELS:,}.") from error
    except UnidentifiedImageError as error:
        raise DataError(f"this {error}.") from error
    except Exception as error:  # decoders of broken files fail in many ways
        raise DataError("this is not an image that can be read; send another.") from error
    if width * height > MAX_PIXELS:
        raise DataError(f"the image has {width:,} x {height:,} pixels; send one of at most {MAX_PIXELS:,}.")
    try:
        return decode_picture(content, preprocessing, decode)
    except BadImageError as error:
        raise DataError(f"the image cannot be decoded: {error}; send another.") from error
    except Exception as error:  # whatever a decoder does, the server goes on
        raise DataError(f"the image cannot be decoded ({type(error).__name__}); send another.") from error


def similar_images(training: SimilarImages, pixels: NDArray[np.uint8]) -> list[dict[str, Any]]:
    """Return the training images most similar to an upload that was decoded for them, the most similar first."""
    source = training.dataset.source
    return [
        {
            "id": str(source.ids[row]),
            "label": source.classes[source.labels[row]],
            "similarity": cosine,
            "image": data_uri(encode(training.dataset.pixels.image(row), "JPEG")),
        }
        for row, cosine in training.most_similar(pixels, SHOWN)
    ]


def predict(bundle: Bundle, pixels: NDArray[np.uint8]) -> dict[str, Any]:
    """Return the probabilities of all classes, the most probable first, and the heat map of that one."""
    answers = bundle.answers(pixels[None])
    probabilities = answers.probabilities[0]
    order = np.argsort(-probabilities, kind="stable")
    return {
        "predicted": bundle.classes[order[0]],
        "probabilities": [{"name": bundle.classes[code], "probability": float(probabilities[code])} for code in order],
        "calibrated": bundle.temperature is not None,
        **_doubt(bundle, answers),
        "seen": data_uri(encode(pixels, "JPEG")),
        **_heat(bundle, pixels),
    }


def _doubt(bundle: Bundle, answers: Answers) -> dict[str, Any]:
    """Return what else the bundle says of an image, null where it does not say it."""
    sets, decided, unlike = answers.sets, answers.decided, answers.unlike
    decide = bundle.config.get("decide") or {}
    return {
        "set": None if sets is None else [bundle.classes[code] for code in np.flatnonzero(sets[0])],
        "coverage": None if sets is None else decide.get("coverage"),
        "decided": None if decided is None else bundle.classes[decided[0]],
        "threshold": None if decided is None else {"positive": decide["positive"], "probability": decide["threshold"]},
        "unlike": None if unlike is None else float(unlike[0]),
    }


def _heat(bundle: Bundle, pixels: NDArray[np.uint8]) -> dict[str, Any]:
    """Return the heat map as an image to lay over the one seen, transparent where nothing spoke for the class."""
    maps = heat_maps(bundle.model, [Normalise(bundle.preprocessing)(torch.from_numpy(pixels)[None])])
    if maps is None:
        return {"heat": None, "heat_why": "This backbone has no spatial layer, so there is no heat map."}
    return {"heat": data_uri(encode(colour_heat(maps[0]), "PNG")), "heat_why": ""}
