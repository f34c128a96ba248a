"""Copies that the audit finds: pictures of a source changed in one way each, how many are found, and how many pairs are
found that are none.

    .venv/bin/python benchmarks/copies.py ../shared/faces --count 600
    .venv/bin/python benchmarks/copies.py ../shared/celeba --set images.resize=squash --only crop turn

Each kind is planted alone among the pictures it is made of. A crop keeps so much of each side, a border is so wide on
each side, and `off` are off the centre, by lot.
"""

import argparse
import io
import time
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from thaw.data.copies import altered_pairs, upright_pairs
from thaw.data.duplicates import components, outlines
from thaw.data.load import preprocessing_of
from thaw.data.source import read_source
from thaw.images.decode import pixels_of
from thaw.images.preprocessing import Preprocessing
from thaw.recipe import load_recipe

Picture = Image.Image
Change = Callable[[Picture, np.random.Generator], Picture]
CPU = torch.device("cpu")


def main() -> None:
    """Plant each kind and print what is found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("--count", type=int, default=600)
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--only", nargs="*", default=[""], help="kinds whose names contain one of these")
    arguments = parser.parse_args()
    recipe = load_recipe("photos", arguments.source, tuple(arguments.settings))
    preprocessing = preprocessing_of(recipe)
    source = read_source(recipe.data)
    rows = np.sort(np.random.default_rng(0).permutation(len(source.ids))[: arguments.count])
    pictures = [Image.open(io.BytesIO(source.picture(int(row)))).convert("RGB") for row in rows]
    kinds = {name: change for name, change in changes().items() if any(part in name for part in arguments.only)}
    originals = pixels(pictures, preprocessing)
    false: set[tuple[int, int]] = set()
    for name, change in kinds.items():
        changed = [change(picture, np.random.default_rng([1, row])) for row, picture in enumerate(pictures)]
        begun = time.perf_counter()
        found = search(torch.cat([originals, pixels(changed, preprocessing)]))
        seconds = time.perf_counter() - begun
        count = len(pictures)
        right = {(row, row + count) for row in range(count)}
        wrong = {tuple(sorted((one % count, other % count))) for one, other in found - right}
        false |= wrong
        recall = len(found & right) / count
        print(f"{name:20}{recall:7.3f}   {len(wrong)} others   {seconds:5.1f} s", flush=True)
    named = ", ".join(f"{source.ids[rows[one]]} and {source.ids[rows[other]]}" for one, other in sorted(false)[:10])
    pairs = len(pictures) * (len(pictures) - 1) // 2
    print(f"{len(false)} of {pairs:,} pairs of different pictures found: {named or 'none'}")


def search(images: torch.Tensor) -> set[tuple[int, int]]:
    """Pairs of rows that the audit calls copies, uint8 (n, height, width, 3)."""
    looks = outlines(images)
    near = list(upright_pairs(looks, CPU))
    known = components(len(images), ((first, second) for first, second, _ in near))
    return {
        (int(one), int(other))
        for first, second, _ in [*near, *altered_pairs(looks, known, CPU)]
        for one, other in zip(first, second, strict=True)
    }


def pixels(pictures: list[Picture], preprocessing: Preprocessing) -> torch.Tensor:
    """The pictures as the network sees them."""
    return torch.from_numpy(np.stack([pixels_of(picture, preprocessing) for picture in pictures]))


def changes() -> dict[str, Change]:
    """What is planted, by name."""
    found: dict[str, Change] = {
        "jpeg 20": lambda one, _: saved(one, 20),
        "half the size": lambda one, _: one.resize((one.width // 2, one.height // 2)),
        "darker": lambda one, _: ImageEnhance.Brightness(one).enhance(0.6),
        "less contrast": lambda one, _: ImageEnhance.Contrast(one).enhance(0.6),
        "blurred": lambda one, _: one.filter(ImageFilter.GaussianBlur(one.width / 100)),
        "noise": noisy,
        "grey": lambda one, _: one.convert("L").convert("RGB"),
        "mirror": lambda one, _: ImageOps.mirror(one),
        "upside down": lambda one, _: ImageOps.flip(one),
        "quarter turn": lambda one, _: one.transpose(Image.Transpose.ROTATE_90),
        "half turn": lambda one, _: one.transpose(Image.Transpose.ROTATE_180),
        "mirror, jpeg 50": lambda one, _: saved(ImageOps.mirror(one), 50),
        "bands beside 10%": lambda one, _: bordered(one, 0.1, 0.0, "black"),
        "bands above 10%": lambda one, _: bordered(one, 0.0, 0.1, "black"),
        "band painted 12%": lambda one, _: painted(one, 0.12),
    }
    for percent in (2, 5, 10):
        found[f"black border {percent}%"] = lambda one, _, by=percent / 100: bordered(one, by, by, "black")
    found["white border 5%"] = lambda one, _: bordered(one, 0.05, 0.05, "white")
    found["white border 10%, jpeg 50"] = lambda one, _: saved(bordered(one, 0.1, 0.1, "white"), 50)
    for percent in (90, 80, 70):
        found[f"crop {percent}%"] = lambda one, _, keep=percent / 100: cropped(one, keep, (0.5, 0.5))
        found[f"crop {percent}% off"] = lambda one, random, keep=percent / 100: cropped(one, keep, random.random(2))
    found["crop 80% off, jpeg 50"] = lambda one, random: saved(cropped(one, 0.8, random.random(2)), 50)
    for degrees in (1, 2, 3, 5):
        found[f"turned {degrees} degrees"] = lambda one, random, by=degrees: one.rotate(
            by * random.choice([-1, 1]), Image.Resampling.BICUBIC
        )
    return found


def saved(picture: Picture, quality: int) -> Picture:
    """The picture after JPEG."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def noisy(picture: Picture, random: np.random.Generator) -> Picture:
    """The picture with noise of 12 levels."""
    levels = np.asarray(picture, np.float32)
    return Image.fromarray((levels + 12 * random.standard_normal(levels.shape)).clip(0, 255).astype(np.uint8))


def bordered(picture: Picture, across: float, down: float, colour: str) -> Picture:
    """The picture with a border of so much of each side."""
    width, height = round(picture.width * across), round(picture.height * down)
    return ImageOps.expand(picture, (width, height, width, height), colour)


def painted(picture: Picture, by: float) -> Picture:
    """The picture with a black band over its lower part."""
    result = picture.copy()
    result.paste("black", (0, round(picture.height * (1 - by)), picture.width, picture.height))
    return result


def cropped(picture: Picture, keep: float, where: tuple[float, float]) -> Picture:
    """The part of the picture that lies at `where` between the first and the last place."""
    width, height = round(picture.width * keep), round(picture.height * keep)
    left, top = round((picture.width - width) * where[0]), round((picture.height - height) * where[1])
    return picture.crop((left, top, left + width, top + height))


if __name__ == "__main__":
    main()
