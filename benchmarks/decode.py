"""Decoding 1024x1024 JPEGs to 224 pixels: milliseconds a picture on one core, and how far `fast` is from `exact`.

.venv/bin/python benchmarks/decode.py ../shared/faces
"""

import argparse
import io
import time

import numpy as np
from PIL import Image

from thaw.data.source import read_source
from thaw.images.decode import decode_picture
from thaw.images.preprocessing import Preprocessing
from thaw.recipe import Data

FOUNDING = Preprocessing(224, "squash", "bilinear", 1.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def main() -> None:
    """Enlarge real pictures, decode them both ways, print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--side", type=int, default=1024)
    arguments = parser.parse_args()
    source = read_source(Data(source=arguments.source))
    pictures = [enlarged(source.picture(row), arguments.side) for row in range(arguments.count)]
    decoded = {}
    for decode in ("exact", "fast"):
        begun = time.perf_counter()
        decoded[decode] = np.stack([decode_picture(content, FOUNDING, decode) for content in pictures])
        print(f"{decode:<6} {(time.perf_counter() - begun) / len(pictures) * 1000:6.2f} ms a picture")
    error = np.abs(decoded["exact"].astype(np.int16) - decoded["fast"])
    worst = np.percentile(error, 99.9)
    print(f"fast differs from exact by {error.mean():.2f} of 255 on average, {worst:.0f} at the 99.9th percentile")


def enlarged(content: bytes, side: int) -> bytes:
    """A picture at another size, as a JPEG of quality 90."""
    buffer = io.BytesIO()
    picture = Image.open(io.BytesIO(content)).convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
    picture.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
