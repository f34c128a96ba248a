"""Copies that are mirrored, turned, cropped or framed are found, other pictures are not, and they can be a group."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image, ImageOps

from helpers.images import SIDE, encoded, scene
from helpers.studies import SETTLED
from thaw.compute.device import choose_compute
from thaw.data import copies
from thaw.data.copies import altered_pairs, copy_clusters, upright_pairs
from thaw.data.duplicates import Looks, outlines
from thaw.data.load import load_dataset
from thaw.data.registration import coarse_contrast, register
from thaw.errors import DataError
from thaw.progress import Clock
from thaw.recipe import load_recipe

CPU = torch.device("cpu")
COUNT = 24


def looks_of(pictures: list[Image.Image]) -> Looks:
    resized = [one.resize((SIDE, SIDE), Image.Resampling.BOX) for one in pictures]
    return outlines(torch.from_numpy(np.stack([np.asarray(one) for one in resized])))


def cropped(keep: float, left: float, top: float) -> Callable[[Image.Image], Image.Image]:
    side = round(SIDE * keep)
    x, y = round((SIDE - side) * left), round((SIDE - side) * top)
    return lambda one: one.crop((x, y, x + side, y + side))


@pytest.mark.parametrize(
    "change",
    [
        ImageOps.mirror,
        ImageOps.flip,
        lambda one: one.transpose(Image.Transpose.ROTATE_90),
        lambda one: one.transpose(Image.Transpose.ROTATE_180),
        lambda one: one.transpose(Image.Transpose.ROTATE_270),
        lambda one: one.transpose(Image.Transpose.TRANSPOSE),
        lambda one: one.transpose(Image.Transpose.TRANSVERSE),
        lambda one: ImageOps.expand(one, 13, "black"),
        lambda one: ImageOps.expand(one, (0, 13, 0, 13), "white"),
        cropped(0.9, 0.2, 1),
        cropped(0.8, 0.5, 0.5),
        cropped(0.7, 0, 0.8),
        lambda one: one.rotate(3, Image.Resampling.BICUBIC),
    ],
    ids=["mirror", "flip", "90", "180", "270", "transpose", "transverse", "border", "bands", "9", "8", "7", "rotated"],
)
def test_a_picture_that_was_altered_is_a_copy_and_others_are_not(
    change: Callable[[Image.Image], Image.Image],
) -> None:
    pictures = [scene(seed) for seed in range(COUNT)]
    looks = looks_of([*pictures, *map(change, pictures)])
    codes = copy_clusters(looks, tuple(map(str, range(2 * COUNT))), CPU)
    pairs = {(one, other) for one in range(2 * COUNT) for other in range(one) if codes[one] == codes[other]}
    right = {(row + COUNT, row) for row in range(COUNT)}
    assert pairs <= right
    assert len(pairs) >= COUNT - 4


def test_the_search_by_cells_finds_what_comparing_all_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [scene(seed) for seed in range(100)]
    looks = looks_of([*pictures, *map(ImageOps.mirror, pictures)])

    def found() -> set[tuple[int, int]]:
        pairs = altered_pairs(looks, np.arange(200), CPU)
        return {(int(a), int(b)) for first, second, _ in pairs for a, b in zip(first, second, strict=True)}

    whole = found()
    monkeypatch.setattr(copies, "CELL_SIZE", 20)
    monkeypatch.setattr(copies, "CHUNK", 64)
    assert found() == whole == {(row, row + 100) for row in range(100)}


def test_copies_that_are_known_are_not_compared() -> None:
    pictures = [scene(0), ImageOps.mirror(scene(0)), scene(1)]
    looks = looks_of(pictures)
    assert [len(first) for first, _, _ in altered_pairs(looks, np.arange(3), CPU)] == [2]  # found from both sides
    assert not list(altered_pairs(looks, np.array([0, 0, 1]), CPU))
    assert not list(altered_pairs(looks, np.zeros(3, np.int64), CPU))


def test_registration_finds_the_map() -> None:
    picture = scene(3).resize((256, 256), Image.Resampling.BICUBIC)
    part = picture.crop((40, 20, 232, 212))  # 75% of the side
    thumbnails = looks_of([part, picture]).thumbnails
    coarse = coarse_contrast(torch.from_numpy(thumbnails).float()[:, None])
    guess = torch.tensor([[[0.8, 0.0, 0.1], [0.0, 0.8, -0.15]]])
    alike, worst, overlap = register(thumbnails, coarse, torch.tensor([0]), torch.tensor([1]), guess)
    assert alike > 0.93
    assert worst > 0.8
    assert overlap > 0.99
    alike, worst, _ = register(thumbnails, coarse, torch.tensor([0]), torch.tensor([1]), torch.eye(2, 3)[None])
    assert alike < 0.9


def test_frames_do_not_make_pictures_alike_and_drawings_have_none() -> None:
    framed = looks_of([ImageOps.expand(scene(seed).resize((104, 104)), 12, "black") for seed in range(COUNT)])
    assert framed.framed.sum() >= COUNT - 2
    assert not sum(len(first) for first, _, _ in upright_pairs(framed, CPU))
    rows, columns = np.mgrid[:SIDE, :SIDE] - SIDE // 2
    disc = np.where((rows**2 + columns**2 < 1600)[..., None], 80, 255).repeat(3, axis=2).astype(np.uint8)
    assert not looks_of([Image.fromarray(disc)]).framed.any()


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Thirty scenes and their mirror images, of two classes."""
    pictures = [one for seed in range(30) for one in (scene(seed), ImageOps.mirror(scene(seed)))]
    content = [{"bytes": encoded(one), "path": None} for one in pictures]
    labels = [f"{row // 2 % 2}" for row in range(60)]
    pq.write_table(pa.table({"image": content, "label": labels}), tmp_path / "table.parquet")
    return tmp_path / "table.parquet"


def test_copies_are_kept_together_as_a_group(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ("images.size=64", "images.resize=squash", "train.device=cpu", "data.group=copies")
    recipe, compute = load_recipe("photos", str(table), (*SETTLED, *settings)), choose_compute("cpu", "fp32")
    dataset = load_dataset(recipe, compute, Clock())
    codes = dataset.source.columns["copies"].to_numpy()
    assert len(np.unique(codes)) in (30, 31)
    splits = [set(codes[rows].tolist()) for rows in dataset.splits.rows().values()]
    assert not splits[0] & splits[1]
    assert not splits[0] & splits[2]
    assert not splits[1] & splits[2]
    named = pq.read_table(table).append_column("copies", pa.array(np.arange(60) // 6))
    pq.write_table(named, table)
    dataset = load_dataset(load_recipe("photos", str(table), (*SETTLED, *settings)), compute, Clock())
    assert set(dataset.source.columns["copies"].to_pylist()) == set(range(10))
    assert "rename it to have copies found" in capsys.readouterr().err


def test_a_group_that_is_no_column_is_refused(table: Path) -> None:
    recipe = load_recipe(
        "photos",
        str(table),
        (
            *SETTLED,
            "data.group=copy",
        ),
    )
    with pytest.raises(DataError, match="no column 'copy'"):
        load_dataset(recipe, choose_compute("cpu", "fp32"), Clock())
