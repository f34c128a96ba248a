"""What a trained model says of one picture: classes, probabilities, heat map, similar training images."""

import base64
import io
import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from thaw.bundle.load import Bundle
from thaw.bundle.predict import probabilities
from thaw.errors import DataError
from thaw.images.decode import BadImageError, decode_picture
from thaw.images.preprocessing import Normalise, Preprocessing
from thaw.nets.heatmaps import heat_maps
from thaw.serve.similar import Training

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF")
"""Formats of pictures that are taken from a browser; others have decoders that few ever looked at."""
MAX_PIXELS = 50_000_000
"""Larger pictures are refused before they are decoded."""
GLOW, OPACITY = (255, 120, 0), 0.7
"""The colour of a heat map, and how much of the picture its hottest place covers."""
SHOWN = 6
"""Similar training images."""


def decode_upload(content: bytes, preprocessing: Preprocessing, decode: str) -> NDArray[np.uint8]:
    """An uploaded picture as uint8 (size, size, 3). Raises DataError with the reason where it is not taken."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata, and of sizes that are refused below
            with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
                width, height = picture.size
    except Image.DecompressionBombError as error:
        raise DataError(f"the picture has too many pixels; send one of {MAX_PIXELS:,} at most.") from error
    except Exception as error:  # decoders of broken files fail in many ways
        raise DataError(f"this is no picture that can be read; send {', '.join(FORMATS[:-1])} or AVIF.") from error
    if width * height > MAX_PIXELS:
        raise DataError(f"the picture has {width:,} x {height:,} pixels; send one of {MAX_PIXELS:,} at most.")
    try:
        return decode_picture(content, preprocessing, decode)
    except BadImageError as error:
        raise DataError(f"the picture cannot be decoded: {error}; send another.") from error
    except Exception as error:  # whatever a decoder does, the server goes on
        raise DataError(f"the picture cannot be decoded ({type(error).__name__}); send another.") from error


def similar_images(training: Training, pixels: NDArray[np.uint8]) -> list[dict[str, Any]]:
    """The most similar training images of an upload that was decoded for them, most similar first."""
    source = training.dataset.source
    return [
        {
            "id": str(source.ids[row]),
            "label": source.classes[source.labels[row]],
            "similarity": cosine,
            "image": data_uri(training.dataset.pixels.image(row), "JPEG"),
        }
        for row, cosine in training.most_similar(pixels, SHOWN)
    ]


def data_uri(pixels: NDArray[np.uint8], kind: str) -> str:
    """A picture, uint8 (height, width, 3), or 4 with opacity, as a data URI."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def predict(bundle: Bundle, pixels: NDArray[np.uint8]) -> dict[str, Any]:
    """Probabilities of all classes, the most probable first, and where in the picture the first of them is seen."""
    shares = probabilities(bundle, pixels[None])[0]
    order = np.argsort(-shares, kind="stable")
    return {
        "predicted": bundle.classes[order[0]],
        "probabilities": [{"name": bundle.classes[code], "probability": float(shares[code])} for code in order],
        "calibrated": bundle.temperature is not None,
        "seen": data_uri(pixels, "JPEG"),
        **_heat(bundle, pixels),
    }


def _heat(bundle: Bundle, pixels: NDArray[np.uint8]) -> dict[str, Any]:
    """The heat map as a picture to lay over the one seen, clear where nothing spoke for the class."""
    maps = heat_maps(bundle.model, [Normalise(bundle.preprocessing)(torch.from_numpy(pixels)[None])])
    if maps is None:
        return {"heat": None, "heat_why": "This backbone has no layer with places, so there is no heat map."}
    laid = np.empty((*maps[0].shape, 4), dtype=np.uint8)
    laid[..., :3], laid[..., 3] = GLOW, (maps[0] * OPACITY).astype(np.uint8)
    return {"heat": data_uri(laid, "PNG"), "heat_why": ""}
