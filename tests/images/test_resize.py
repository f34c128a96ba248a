"""The resize of exported graphs: the same bits as Pillow's for pictures of many sizes, eager and exported."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor, nn

from thaw.export.graph import program
from thaw.export.onnx import runner, to_onnx
from thaw.images.decode import FILTERS, to_square
from thaw.images.preprocessing import Preprocessing, Size, padding_colour, sides
from thaw.images.resize import resize_to_square

SIZES = [(1, 1), (1, 9), (7, 3), (32, 32), (31, 33), (64, 48), (333, 40), (40, 333), (301, 477), (640, 425)]

MEAN = (0.485, 0.456, 0.406)


class Resize(nn.Module):
    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.preprocessing = preprocessing

    def forward(self, pixels: Tensor) -> Tensor:
        return resize_to_square(pixels, self.preprocessing)


def pictures(count: int) -> list[NDArray[np.uint8]]:
    """Noise, of sizes from one pixel to several hundred; every other one black and white, where bicubic overshoots."""
    random = np.random.default_rng(0)
    drawn = np.exp(random.uniform(0, np.log(500), (count, 2))).round().astype(int)
    noise = [random.integers(0, 256, (height, width, 3), dtype=np.uint8) for width, height in [*SIZES, *drawn]]
    return [(one // 128 * 255).astype(np.uint8) if index % 2 else one for index, one in enumerate(noise)]


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("resize", "crop"), [("squash", 1.0), ("crop", 0.875), ("crop", 0.95), ("letterbox", 1.0)])
@pytest.mark.parametrize("size", [7, 32, 65, (24, 40), (70, 33)])
def test_pixels_are_pillows_to_the_bit(size: Size, resize: str, crop: float, interpolation: str) -> None:
    preprocessing = Preprocessing(size, resize, interpolation, crop, MEAN, (0.5, 0.5, 0.5))
    for picture in pictures(30):
        expected = np.array(to_square(Image.fromarray(picture), preprocessing))
        square = resize_to_square(torch.from_numpy(picture)[None], preprocessing)
        assert np.array_equal(square[0].numpy(), expected), picture.shape


def test_a_batch_is_its_pictures() -> None:
    preprocessing = Preprocessing(32, "crop", "bicubic", 0.875, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    batch = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (3, 51, 40, 3), dtype=np.uint8))
    expected = torch.cat([resize_to_square(one[None], preprocessing) for one in batch])
    assert torch.equal(resize_to_square(batch, preprocessing), expected)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [32, 224, (24, 40), (70, 33)])
def test_a_letterbox_is_what_pillow_pads(size: Size, interpolation: str) -> None:
    """Where Pillow would leave nothing of an image, one row or column of pixels stays."""
    preprocessing = Preprocessing(size, "letterbox", interpolation, 1.0, MEAN, (0.5, 0.5, 0.5))
    high, wide = sides(size)
    colour = padding_colour(preprocessing)
    assert colour == (124, 116, 104)
    for picture in pictures(60):
        image = Image.fromarray(picture)
        found = np.array(to_square(image, preprocessing))
        if min(image.width * high / image.height, image.height * wide / image.width) > 0.5:
            padded = ImageOps.pad(image, (wide, high), FILTERS[interpolation], colour)
            assert np.array_equal(found, np.array(padded)), picture.shape
        else:
            assert (found != colour).any(), picture.shape


@pytest.mark.parametrize(("resize", "size"), [("letterbox", 32), ("letterbox", (24, 40)), ("crop", (40, 24))])
def test_the_graph_of_torch_export_has_the_same_bits(resize: str, size: Size) -> None:
    preprocessing = Preprocessing(size, resize, "bicubic", 0.875, MEAN, (0.5, 0.5, 0.5))
    graph = program(Resize(preprocessing)).module()
    for picture in pictures(60):
        expected = np.array(to_square(Image.fromarray(picture), preprocessing))
        assert np.array_equal(graph(torch.from_numpy(picture)[None])[0].numpy(), expected), picture.shape


@pytest.mark.parametrize(("resize", "size"), [("letterbox", 32), ("letterbox", (24, 40)), ("squash", (40, 24))])
def test_the_onnx_graph_has_the_same_bits(resize: str, size: Size) -> None:
    preprocessing = Preprocessing(size, resize, "bilinear", 1.0, MEAN, (0.5, 0.5, 0.5))
    resized = runner(to_onnx(Resize(preprocessing), "pictures", ["pixels"]))
    for picture in pictures(60):
        expected = np.array(to_square(Image.fromarray(picture), preprocessing))
        assert np.array_equal(resized(picture[None])[0][0], expected), picture.shape
