"""A table that is mapped into memory and written to while a study reads it: one sentence, and nothing false is kept."""

import os
import re
import subprocess
import sys
from pathlib import Path

import datasets
import pytest

from helpers.images import encoded_image
from helpers.studies import SETTLED
from thaw.compute.device import choose_compute
from thaw.data.dataset import Dataset
from thaw.data.load import load_dataset
from thaw.data.pixels import CHUNK
from thaw.progress import Clock
from thaw.recipe import load_recipe

IMAGES, AFTER = 700, 600
"""The file changes in the second chunk of pixels, so that the first one is kept."""

CHECK = """
import os, sys
from pathlib import Path
from thaw.cli.app import main
from thaw.data import pixels
from thaw.progress import workers

file, how, after = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
decode, done = pixels.decode_picture, 0

def decode_and_change(*arguments):
    global done
    done += 1
    if done == after:
        size = file.stat().st_size
        os.truncate(file, size // 2) if how == "truncated" else file.write_bytes(os.urandom(size))
    return decode(*arguments)

pixels.decode_picture = decode_and_change
pixels.workers = lambda: workers(1)  # else the others may have read all by then
sys.argv = ["thaw", "check", str(file.parent), "--set", "images.size=8"]
main()
"""
"""`thaw check` of a dataset folder whose one file changes while it is decoded.

In a process of its own: one that looked at mapped bytes of a file that became shorter would be ended by the system.
"""


def load(folder: Path) -> Dataset:
    recipe = load_recipe("photos", str(folder), (*SETTLED, "images.size=8", "train.device=cpu"))
    return load_dataset(recipe, choose_compute("cpu", "fp32"), Clock())


@pytest.mark.slow
@pytest.mark.parametrize("how", ["truncated", "rewritten"])
def test_a_mapped_table_that_changes_ends_in_a_sentence(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert CHUNK < AFTER < IMAGES
    columns = {
        "image": [{"bytes": encoded_image(seed, seed % 2), "path": None} for seed in range(IMAGES)],
        "label": [seed % 2 for seed in range(IMAGES)],
    }
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["left", "right"])})
    datasets.disable_progress_bars()
    datasets.Dataset.from_dict(columns, features).save_to_disk(tmp_path / "table")
    (file,) = (tmp_path / "table").glob("*.arrow")
    content = file.read_bytes()
    ended = subprocess.run(
        [sys.executable, "-c", CHECK, str(file), how, str(AFTER)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert ended.returncode == 2, ended.stderr
    said = r"thaw: the image 'all/\d{6}' changed while the study was reading; run the command again when nothing"
    assert re.match(said, ended.stderr.splitlines()[-1]), ended.stderr
    file.write_bytes(content)
    again = load(tmp_path / "table")
    monkeypatch.setenv("THAW_CACHE", str(tmp_path / "fresh"))
    fresh = load(tmp_path / "table")
    assert again.source.digests == fresh.source.digests
    assert (again.pixels.arrays[0] == fresh.pixels.arrays[0]).all()
