"""Heat maps lie where the evidence is, on convolutions and transformers, and are Grad-CAM where that is faithful."""

import numpy as np
import pytest
import timm
import torch
from captum.attr import LayerGradCam
from torch import Tensor, nn
from torch.nn import functional

from thaw.nets.backbones import build_backbone
from thaw.nets.heatmaps import as_places, find_layer, heat_maps


def planted(images: int, seed: int, side: int = 32, part: int = 8) -> tuple[Tensor, Tensor, list[tuple[int, int]]]:
    """Faint noise with one red, green or blue square on a grid: images, which colour, and the top left corners."""
    random = np.random.default_rng(seed)
    pictures = torch.from_numpy(random.normal(0, 0.1, (images, 3, side, side)).astype(np.float32))
    colours = torch.from_numpy(random.integers(0, 3, images))
    corners = [(int(y) * part, int(x) * part) for y, x in random.integers(0, side // part, (images, 2))]
    for picture, colour, (y, x) in zip(pictures, colours.tolist(), corners, strict=True):
        picture[colour, y : y + part, x : x + part] += 2
    return pictures, colours, corners


def trained(network: nn.Module, steps: int = 100) -> nn.Module:
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for step in range(steps):
        pictures, colours, _ = planted(32, step)
        loss = functional.cross_entropy(network.train()(pictures), colours)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network


def convolutions() -> nn.Module:
    layers = [nn.Conv2d(3, 16, 4, 4), nn.ReLU(inplace=True), nn.Conv2d(16, 16, 1), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3))


def transformer() -> nn.Module:
    return timm.models.VisionTransformer(32, 8, embed_dim=32, depth=1, num_heads=2, num_classes=3)


def swin() -> nn.Module:
    return timm.models.SwinTransformer(
        32, 4, embed_dim=16, depths=(1, 1), num_heads=(2, 2), window_size=2, num_classes=3, drop_path_rate=0.0
    )


@pytest.mark.parametrize(("make", "reach"), [(convolutions, 8), (transformer, 8), (swin, 16)])
def test_the_map_lies_on_the_planted_object(make: type[nn.Module], reach: int) -> None:
    """Or in its window, within which Swin's attention mixes all places."""
    torch.manual_seed(0)
    network = trained(make())
    pictures, colours, corners = planted(48, 1000)
    maps = heat_maps(network, [pictures[:32], pictures[32:]])
    assert maps is not None
    assert (maps.dtype, maps.shape) == (np.uint8, (48, 14, 14))
    with torch.inference_mode():
        right = network.eval()(pictures).argmax(1) == colours
    assert right.float().mean() > 0.9
    hits = []
    for heat, (y, x) in zip(maps, corners, strict=True):
        own = np.zeros((32, 32), dtype=bool)
        y, x = y // reach * reach, x // reach * reach
        own[y : y + reach, x : x + reach] = True
        scaled = np.kron(heat, np.ones((16, 16)))[::7, ::7]  # 14 x 14 to 32 x 32
        hits.append(scaled[own].sum() / max(1, scaled.sum()))
    # by chance a sixteenth for a reach of 8 pixels, a quarter for 16; smoothing to 14 x 14 spreads a place
    assert np.median(hits) > 0.3 + reach / 64


def test_on_pooled_convolutions_it_is_grad_cam() -> None:
    torch.manual_seed(0)
    network = trained(convolutions(), steps=5).eval()
    pictures, *_ = planted(6, 0)
    logits = network(pictures)
    of_class = [LayerGradCam(network, network[3]).attribute(pictures, target)[:, 0] for target in range(3)]
    maps_of = torch.stack(of_class, 1)
    expected = (maps_of[torch.arange(6), logits.argmax(1)] - maps_of.mean(1)).relu()[:, None]
    expected = functional.interpolate(expected, (14, 14), mode="bilinear", antialias=True)[:, 0]
    expected = (255 * expected / expected.amax((1, 2), keepdim=True).clamp_min(1e-9)).detach().numpy()
    maps = heat_maps(network, [pictures])
    assert maps is not None
    np.testing.assert_allclose(maps, expected, atol=1)


@pytest.mark.parametrize(
    ("backbone", "side", "layer"),
    [
        ("torchvision/alexnet", 128, "avgpool"),
        ("torchvision/mobilenet_v2", 128, "features"),
        ("torchvision/mobilenet_v2", 64, "features.14.conv.0"),
        ("torchvision/resnet18", 128, "layer4"),
        ("torchvision/densenet121", 128, "features"),
        ("torchvision/swin_t", 128, "permute"),
        ("torchvision/squeezenet1_1", 64, "features.7"),
        ("timm/test_convnext", 128, "norm_pre"),
        ("timm/test_vit", 160, "blocks.5.attn.qkv"),
    ],
)
def test_the_layer_is_found_from_the_network_itself(backbone: str, side: int, layer: str) -> None:
    model, _ = build_backbone(backbone, "random", 3, seed=0)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    found = find_layer(model.eval(), torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0)))
    assert [name for name, module in model.named_modules() if module is found] == [layer]


def test_a_network_without_places_has_no_map() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 8), nn.ReLU(), nn.Linear(8, 2))
    assert heat_maps(network, [torch.randn(4, 3, 16, 16)]) is None


def test_the_network_stays_as_it_is() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network.add_module("head", nn.Linear(4, 2))
    network[0].weight.requires_grad_(False)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    heat_maps(network, [torch.randn(4, 3, 16, 16)])
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_places_of_maps_and_tokens() -> None:
    images, side = 2, 64
    for shape, expected in {
        (5, 4, 4): (5, 4, 4),
        (4, 4, 5): (5, 4, 4),
        (17, 5): (5, 4, 4),
        (16, 5): (5, 4, 4),
        (5, 1, 1): None,
        (5, 4, 6): None,
        (5, 64, 64): None,
        (30, 5): (5, 5, 5),
        (34 + 1, 5): None,
        (5,): None,
    }.items():
        found = as_places(torch.zeros(images, *shape), (side, side))
        assert (None if found is None else tuple(found.shape[1:])) == expected, shape
    tokens = torch.arange(17.0).view(1, 17, 1)
    assert torch.equal(as_places(tokens, (side, side)), torch.arange(1.0, 17).view(1, 1, 4, 4))


def test_places_of_rectangular_images() -> None:
    for shape, size, expected in [
        ((5, 6, 8), (96, 128), (5, 6, 8)),
        ((6, 8, 5), (96, 128), (5, 6, 8)),
        ((5, 8, 6), (96, 128), None),
        ((5, 4, 4), (100, 128), (5, 4, 4)),
        ((49, 5), (96, 128), (5, 6, 8)),
        ((197, 5), (256, 192), (5, 16, 12)),
        ((5, 48, 48), (96, 128), None),
    ]:
        found = as_places(torch.zeros(2, *shape), size)
        assert (None if found is None else tuple(found.shape[1:])) == expected, shape


def test_the_map_of_a_rectangle_is_hot_where_the_object_is() -> None:
    """A network that adds up the brightness of each half of an image, in places of 8 x 8 pixels."""
    network = nn.Sequential(nn.AvgPool2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 6 * 16, 2, bias=False))
    left = torch.arange(16).expand(3, 6, 16) < 8
    with torch.no_grad():
        network[3].weight.copy_(torch.stack([left.flatten(), ~left.flatten()]).float())
    images = torch.zeros(2, 3, 48, 128)
    images[0, :, 8:16, 16:24] = 1
    images[1, :, 40:, 120:] = 1
    maps = heat_maps(network, [images])
    assert maps is not None
    assert maps.shape == (2, 14, 14)
    rows, columns = np.divmod(maps.reshape(2, -1).argmax(1), 14)
    assert rows.tolist() == [3, 13]  # the middle of 14 rows that stand for 6
    assert columns.tolist() == [2, 13]
