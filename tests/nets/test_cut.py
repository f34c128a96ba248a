"""A network that is cut gives what the whole network's module gives, pooled; and can be frozen, split and exported."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from thaw.errors import ModelError
from thaw.nets.backbones import build_backbone, native_size
from thaw.nets.cut import unrolled
from thaw.nets.cut_points import find_cut_points
from thaw.nets.freezing import freeze, set_mode
from thaw.nets.heatmaps import find_layer
from thaw.nets.prefix.split import split

PLACES = [
    ("torchvision/alexnet", "features.5", 2),
    ("torchvision/mobilenet_v2", "features.6", 3),
    ("torchvision/resnet18", "layer2", 1),
    ("timm/test_vit", "blocks.3", 1),
    ("timm/test_resnet", "layer2", 2),
    ("timm/test_convnext", "stages.1", 1),
]
SLOW = [
    ("torchvision/convnext_tiny", "features.3", 2),
    ("torchvision/vit_b_32", "encoder.layers.encoder_layer_2", 1),
    ("torchvision/swin_t", "features.3", 2),
    ("timm/swin_tiny_patch4_window7_224", "layers.1", 1),
]


def pooled(values: Tensor, grid: int) -> Tensor:
    """The mean of each part of a map, in a loop; of tokens the class token and the mean of the others."""
    if values.dim() == 3:
        return torch.cat([values[:, 0], values[:, 1:].mean(1)], 1)
    if values.shape[1] == values.shape[2] != values.shape[3]:
        values = values.permute(0, 3, 1, 2)
    side = values.shape[2]
    edges = [(part * side // grid, -(-(part + 1) * side // grid)) for part in range(grid)]
    parts = [[values[:, :, a:b, c:d].mean((2, 3)) for c, d in edges] for a, b in edges]
    return torch.stack([torch.stack(row, 2) for row in parts], 2).flatten(1)


@pytest.mark.parametrize(
    ("backbone", "at", "grid"), [*PLACES, *(pytest.param(*place, marks=pytest.mark.slow) for place in SLOW)]
)
def test_a_cut_network_is_the_whole_one_up_to_there(backbone: str, at: str, grid: int) -> None:
    size = native_size(backbone)
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    whole, _ = build_backbone(backbone, "random", 3, seed=1)
    reached: list[Tensor] = []
    whole.eval().get_submodule(at).register_forward_hook(lambda _, __, output: reached.append(output.clone()))
    model, head = build_backbone(backbone, "random", 3, 1, at, grid)
    with torch.no_grad():
        whole(images)
        logits = model.eval()(images)
        expected = model.get_submodule(head)(pooled(reached[0], grid))
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    assert sum(p.numel() for p in model.parameters()) < sum(p.numel() for p in whole.parameters())
    found = find_layer(model, images)
    assert found is not None
    freeze(model, head, "head", size)
    set_mode(model, "eval")
    parts = split(model, images)
    assert not parts.reason
    assert parts.prefix is not None
    with torch.no_grad():
        torch.testing.assert_close(parts.suffix(*parts.prefix(images)), logits, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(unrolled(model)(images), logits, rtol=1e-4, atol=1e-5)


def test_a_cut_network_trains() -> None:
    model, head = build_backbone("timm/test_resnet", "random", 3, 1, "layer2", 2)
    freeze(model, head, ["layer2", head])
    set_mode(model, "eval")
    model(torch.randn(4, 3, 64, 64)).square().sum().backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert {name.split(".")[0] for name in trained} == {"layer2", "fc"}


@pytest.mark.parametrize(
    ("at", "said"),
    [
        ("layer9", "did you mean layer"),
        ("nonsense", "its modules are conv1, bn1"),
        ("fc", "is or holds the head"),
    ],
)
def test_where_it_cannot_be_cut_is_said(at: str, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        build_backbone("torchvision/resnet18", "random", 2, 0, at)


def test_a_grid_needs_a_map() -> None:
    with pytest.raises(ModelError, match="grid = 2 needs a map"):
        build_backbone("timm/test_vit", "random", 2, 0, "blocks.1", 2)


@pytest.mark.parametrize("backbone", ["torchvision/alexnet", "torchvision/mobilenet_v2", "timm/test_vit"])
def test_depths_are_places_to_cut_at(backbone: str) -> None:
    """With as many parameters as are counted."""
    size = native_size(backbone)
    model, head = build_backbone(backbone, "random", 2, seed=0)
    depths = find_cut_points(model, head, size)
    assert len(depths) > 5
    assert np.all(np.diff([depth.parameters for depth in depths]) >= 0)
    for depth in (depths[0], depths[len(depths) // 2], depths[-1]):
        short, name = build_backbone(backbone, "random", 2, 0, depth.at)
        rest = sum(p.numel() for p in short.parameters()) - sum(
            p.numel() for p in short.get_submodule(name).parameters()
        )
        assert rest == depth.parameters


def test_depths_of_alexnet_follow_activations_and_pooling() -> None:
    model, head = build_backbone("torchvision/alexnet", "random", 2, seed=0)
    wanted = ["features.2", "features.5", "features.7", "features.9", "avgpool", "classifier.2", "classifier.5"]
    assert [depth.at for depth in find_cut_points(model, head, 224)] == wanted
    assert isinstance(model.get_submodule("features.2"), nn.MaxPool2d)
