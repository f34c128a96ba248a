"""Pixels: the same bits as torchvision's transforms, odd pictures, and a cache that is never stale."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from helpers.images import encoded, encoded_image, noise
from thaw.data.depth import source_depth
from thaw.data.pixels import make_pixels
from thaw.data.source import read_source
from thaw.images.decode import BadImageError, decode_picture, to_square, upright_rgb
from thaw.images.files import open_image
from thaw.images.preprocessing import Normalise, Preprocessing
from thaw.recipe import Data

SQUASH = Preprocessing(32, "squash", "bilinear", 1.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize(("width", "height"), [(301, 477), (477, 301), (40, 40), (20, 31)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_pixels_are_torchvisions_to_the_bit(width: int, height: int, interpolation: str) -> None:
    image = noise(width, height)
    mode = transforms.InterpolationMode(interpolation)
    normalise = [transforms.ToTensor(), transforms.Normalize(SQUASH.mean, SQUASH.std)]
    squash = transforms.Compose([transforms.Resize((32, 32), mode), *normalise])
    ours = replace(SQUASH, interpolation=interpolation)
    pixels = torch.from_numpy(decode_picture(encoded(image), ours, "exact"))
    assert torch.equal(Normalise(ours)(pixels[None])[0], squash(image))
    crop = transforms.Compose([transforms.Resize(36, mode), transforms.CenterCrop(32), *normalise])
    pixels = torch.from_numpy(np.array(to_square(image, replace(ours, resize="crop", crop=32 / 36))))
    assert torch.equal(Normalise(ours)(pixels[None])[0], crop(image))


@pytest.mark.shared
def test_real_photographs_are_torchvisions_to_the_bit(shared: Path) -> None:
    source = read_source(Data(source=str(shared / "celeba")))
    source = source.take(np.arange(40))
    founding = replace(SQUASH, size=224)
    pixels = make_pixels(source, founding, "exact")
    transform = transforms.Compose(
        [transforms.Resize((224, 224)), transforms.ToTensor(), transforms.Normalize(SQUASH.mean, SQUASH.std)]
    )
    expected = torch.stack([transform(Image.open(io.BytesIO(source.picture(row)))) for row in range(40)])
    assert torch.equal(Normalise(founding)(torch.from_numpy(np.array(pixels.array))), expected)


def test_exif_orientation_turns_the_picture_upright() -> None:
    image = noise(48, 32)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = decode_picture(encoded(image, exif=exif), SQUASH, "exact")
    upright = decode_picture(encoded(image.transpose(Image.Transpose.ROTATE_270)), SQUASH, "exact")
    assert np.array_equal(turned, upright)


def test_transparency_lies_on_white_and_palettes_and_grey_are_rgb() -> None:
    clear = Image.new("RGBA", (8, 8), (10, 20, 30, 0))
    assert (decode_picture(encoded(clear), SQUASH, "exact") == 255).all()
    for mode in ("P", "L", "1", "LA", "CMYK"):
        kind = "TIFF" if mode == "CMYK" else "PNG"
        expected = np.asarray(to_square(noise(40, 40, mode).convert("RGB"), SQUASH))
        assert np.array_equal(decode_picture(encoded(noise(40, 40, mode), kind), SQUASH, "exact"), expected)


RAMP = np.tile(np.linspace(0, 1, 256), (64, 1))


@pytest.mark.parametrize(
    ("values", "levels"),
    [
        ((RAMP * 65535).astype(np.uint16), 256),
        ((RAMP * 4095).astype(np.uint16), 256),
        ((RAMP * 1023).astype(np.uint16), 256),
        ((RAMP * 255).round().astype(np.int32), 256),
        ((RAMP * 4095).astype(np.int32), 256),
        ((RAMP * 300).astype(np.int32), 211),
        (RAMP.astype(np.float32), 256),
        ((RAMP * 1.02).astype(np.float32), 256),
        ((RAMP * 2 - 1).astype(np.float32), 256),
        ((RAMP * 255).astype(np.float32), 256),
        ((RAMP * 1e-4).astype(np.float32), 256),
    ],
)
def test_deep_grey_keeps_its_levels(values: np.ndarray, levels: int) -> None:
    with open_image(encoded(Image.fromarray(values), "TIFF")) as opened:
        seen = np.asarray(upright_rgb(opened))
    assert len(np.unique(seen)) == levels
    assert seen.min() == 0
    assert (seen[:, :-1] <= seen[:, 1:]).all()


def test_one_scale_is_chosen_for_all_of_a_source_and_used_by_predict(tmp_path: Path) -> None:
    for index, most in enumerate((300, 1000, 4000, 2000)):
        folder = tmp_path / "deep" / "ab"[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        kind = ("png", "tiff")[index % 2]
        Image.fromarray((RAMP * most).astype(np.uint16)).save(folder / f"{most}.{kind}")
    source = read_source(Data(source=str(tmp_path / "deep")))
    depth, warnings = source_depth(source, None)
    assert depth == (0, 4095)
    assert warnings == ()
    assert source_depth(source.take(np.arange(1)), (0, 1023))[0] == (0, 1023)
    deep = replace(SQUASH, depth=depth)
    pixels = make_pixels(source, deep, "exact")
    for row, name in enumerate(source.ids.tolist()):
        most = int(Path(name).stem)
        assert abs(int(pixels.array[row].max()) - round(most * 255 / 4095)) <= 1 + most * 8 / 4095
        assert np.array_equal(decode_picture(source.picture(row), deep, "exact"), pixels.array[row])
    assert not source.take(np.arange(0)).deep.any()  # type: ignore[union-attr]


def test_nan_and_infinity_are_named_and_the_image_is_not_black(tmp_path: Path) -> None:
    values = RAMP.astype(np.float32).copy()
    values[0, :3] = np.nan, np.inf, -np.inf
    for index in range(4):
        folder = tmp_path / "nan" / "ab"[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values if index == 1 else RAMP.astype(np.float32)).save(folder / f"{index}.tif")
    source = read_source(Data(source=str(tmp_path / "nan")))
    depth, warnings = source_depth(source, None)
    assert depth == (0, 1)
    assert warnings == (
        "1 grey images have pixels that are NaN or infinite, such as 'b/1.tif'; NaN is taken for black",
    )
    with Image.open(tmp_path / "nan" / "b" / "1.tif") as opened:
        seen = np.asarray(upright_rgb(opened, depth))[:, :, 0]
    assert seen[0, :3].tolist() == [0, 255, 0]
    assert np.array_equal(seen[1], (RAMP[0] * 255).round())


def test_whole_numbers_and_fractions_in_one_source_are_warned_of(tmp_path: Path) -> None:
    for index in range(4):
        folder = tmp_path / "mixed" / "ab"[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        values = (RAMP * 4095).astype(np.uint16) if index else RAMP.astype(np.float32)
        Image.fromarray(values).save(folder / f"{index}.tif")
    depth, (warning,) = source_depth(read_source(Data(source=str(tmp_path / "mixed"))), None)
    assert depth is None
    assert "hold whole numbers and fractions" in warning


def test_sixteen_bits_are_scaled_to_eight() -> None:
    values = np.linspace(0, 65535, 40 * 40).reshape(40, 40).astype(np.uint16)
    pixels = decode_picture(encoded(Image.fromarray(values)), SQUASH, "exact")
    assert pixels[0, 0, 0] < 5
    assert pixels[-1, -1, 0] > 250
    for scaled in ((values / 65535).astype(np.float32), (values // 257).astype(np.int32)):
        again = decode_picture(encoded(Image.fromarray(scaled), "TIFF"), SQUASH, "exact")
        assert np.abs(again.astype(int) - pixels).max() <= 1


@pytest.mark.parametrize(
    "content", [b"", b"text called .jpg", encoded_image(0, kind="JPEG")[:300], encoded_image(0)[:200]], ids=str
)
def test_a_bad_picture_says_why(content: bytes) -> None:
    with pytest.raises(BadImageError, match=r"."):
        decode_picture(content, SQUASH, "exact")


def test_a_strip_that_cropping_would_blow_up_is_refused() -> None:
    strip = encoded(Image.new("RGB", (1, 8000)))
    assert decode_picture(strip, SQUASH, "exact").shape == (SQUASH.size, SQUASH.size, 3)
    with pytest.raises(BadImageError, match="8,000 pixels, too narrow to crop"):
        decode_picture(strip, replace(SQUASH, size=224, resize="crop", crop=0.875), "exact")


def test_fast_decoding_stays_near_exact() -> None:
    smooth = noise(40, 40).resize((1024, 1024), Image.Resampling.BICUBIC)
    content = encoded(smooth, "JPEG", quality=95)
    exact, fast = (decode_picture(content, replace(SQUASH, size=224), decode) for decode in ("exact", "fast"))
    assert np.abs(exact.astype(int) - fast).mean() < 2


def test_pixels_are_made_once_and_never_stale(class_folder: Path) -> None:
    def pixels(preprocessing: Preprocessing = SQUASH, decode: str = "exact"):  # type: ignore[no-untyped-def]
        return make_pixels(read_source(Data(source=str(class_folder))), preprocessing, decode)

    first = pixels()
    assert first.made
    assert not pixels().made
    assert pixels(replace(SQUASH, size=16)).made
    assert pixels(decode="fast").made
    path = class_folder / "left" / "000.png"
    path.write_bytes(encoded_image(999))
    assert pixels().made


def test_a_truncated_cache_file_is_noticed_and_rebuilt(class_folder: Path) -> None:
    source = read_source(Data(source=str(class_folder)))
    first = make_pixels(source, SQUASH, "exact")
    kept = np.array(first.array)
    assert isinstance(first.array, np.memmap)
    path = Path(first.array.filename)
    path.write_bytes(path.read_bytes()[:-1])
    again = make_pixels(source, SQUASH, "exact")
    assert again.made
    assert np.array_equal(again.array, kept)
