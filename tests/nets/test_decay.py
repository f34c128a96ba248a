"""Layer-wise learning rates and weight decay against timm's own functions, and against scales written by hand."""

from itertools import pairwise

import pytest
import torch
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import nn

from thaw.nets.adapters import add_adapters
from thaw.nets.backbones import build_backbone
from thaw.nets.decay import decayed_parameters, layer_decay_scales

DECAY = 0.5


def steps(model: nn.Module, head: str) -> dict[str, int]:
    """By name of parameter, how many layers come after its own."""
    scales = layer_decay_scales(model, head, DECAY, 224)
    return {name: round(-torch.tensor(scales[p]).log2().item()) for name, p in model.named_parameters()}


def built(backbone: str) -> tuple[nn.Module, str]:
    with torch.device("meta"):
        return build_backbone(backbone, "random", 3, seed=0)


@pytest.mark.parametrize(
    "name",
    ["vit_tiny_patch16_224", "beit_base_patch16_224", "deit_tiny_patch16_224", "convnext_atto", "resnet18", "test_vit"],
)
def test_layer_wise_learning_rates_are_timms(name: str) -> None:
    model, head = built(f"timm/{name}")
    groups = param_groups_layer_decay(model, layer_decay=0.7)
    expected = {parameter: group["lr_scale"] for group in groups for parameter in group["params"]}
    assert layer_decay_scales(model, head, 0.7, 224) == expected


def test_layer_wise_learning_rates_of_a_transformer_are_beits() -> None:
    """As get_num_layer_for_vit in BEiT's optim_factory.py numbers them, which has no norm before its pooled head."""
    model, head = built("timm/vit_tiny_patch16_224")
    other, others_head = built("torchvision/vit_b_16")
    for after, stem, block in (
        (steps(model, head), ("cls_token", "pos_embed", "patch_embed."), "blocks.{}."),
        (
            steps(other, others_head),
            ("class_token", "encoder.pos_embedding", "conv_proj."),
            "encoder.layers.encoder_layer_{}.",
        ),
    ):
        assert {value for name, value in after.items() if name.startswith(stem)} == {13}
        for index in range(12):
            assert {value for name, value in after.items() if name.startswith(block.format(index))} == {12 - index}
        assert {value for name, value in after.items() if "head" in name} == {0}


EXPECTED = {
    "torchvision/alexnet": [
        *([f"features.{layer}."] for layer in (0, 3, 6, 8, 10)),
        *(["classifier.1."], ["classifier.4."], ["classifier.6."]),
    ],
    "torchvision/mobilenet_v2": [*([f"features.{block}."] for block in range(19)), ["classifier.1."]],
    "torchvision/resnet18": [
        ["conv1.", "bn1."],
        *([f"layer{stage}.{block}."] for stage in (1, 2, 3, 4) for block in (0, 1)),
        ["fc."],
    ],
    "torchvision/resnet50": [
        ["conv1.", "bn1."],
        *([f"layer{stage + 1}.{block}."] for stage, depth in enumerate((3, 4, 6, 3)) for block in range(depth)),
        ["fc."],
    ],
    "torchvision/convnext_tiny": [
        ["features.0."],
        *(["features.1.0."], ["features.1.1."], ["features.1.2."]),
        *(["features.2.", "features.3.0."], ["features.3.1."], ["features.3.2."]),
        *(["features.4.", "features.5.0."], *([f"features.5.{block}."] for block in range(1, 9))),
        *(["features.6.", "features.7.0."], ["features.7.1."], ["features.7.2.", "classifier.0."]),
        ["classifier.2."],
    ],
    "torchvision/vit_b_16": [
        ["conv_proj.", "class_token", "encoder.pos_embedding"],
        *([f"encoder.layers.encoder_layer_{block}."] for block in range(11)),
        *(["encoder.layers.encoder_layer_11.", "encoder.ln."], ["heads.head."]),
    ],
    "torchvision/swin_t": [
        ["features.0."],
        *(["features.1.0."], ["features.1.1."]),
        *(["features.2.", "features.3.0."], ["features.3.1."]),
        *(["features.4.", "features.5.0."], *([f"features.5.{block}."] for block in range(1, 6))),
        *(["features.6.", "features.7.0."], ["features.7.1.", "norm."]),
        ["head."],
    ],
}
"""The layers of each backbone from the first to the head, as beginnings of the names of their parameters."""


@pytest.mark.parametrize("backbone", EXPECTED)
def test_layers_of_torchvisions_networks(backbone: str) -> None:
    layers = EXPECTED[backbone]
    after = steps(*built(backbone))
    for name, count in after.items():
        (place,) = [place for place, layer in enumerate(layers) if name.startswith(tuple(layer))]
        assert count == len(layers) - 1 - place, name
    assert set(after.values()) == set(range(len(layers)))


@pytest.mark.parametrize(
    ("torchvisions", "timms"), [("resnet18", "resnet18"), ("swin_t", "swin_tiny_patch4_window7_224")]
)
def test_the_same_architecture_has_the_same_layers_in_both_libraries(torchvisions: str, timms: str) -> None:
    both = [steps(*built(f"torchvision/{torchvisions}")), steps(*built(f"timm/{timms}"))]
    sizes = []
    for after, (model, _) in zip(both, (built(f"torchvision/{torchvisions}"), built(f"timm/{timms}")), strict=True):
        counts = [0] * (max(after.values()) + 1)
        for name, parameter in model.named_parameters():
            counts[after[name]] += parameter.numel()
        sizes.append(counts)
    assert sizes[0] == sizes[1]


def test_rates_never_rise_with_depth_and_adapters_have_those_of_their_block() -> None:
    model, head = built("torchvision/vit_b_16")
    with torch.device("meta"):
        add_adapters(model, head, 2, seed=0)
    after = steps(model, head)
    for index in range(12):
        inside = {value for name, value in after.items() if name.startswith(f"encoder.layers.encoder_layer_{index}.")}
        assert inside == {12 - index}
    shallow = built("torchvision/efficientnet_b0")
    order = [value for name, value in steps(*shallow).items() if name.endswith(".weight")]
    assert all(one >= other for one, other in pairwise(order))


@pytest.mark.parametrize(
    "name",
    [
        "vit_tiny_patch16_224",
        "beit_base_patch16_224",
        "swin_tiny_patch4_window7_224",
        "swinv2_tiny_window8_256",
        "mvitv2_tiny",
    ],
)
def test_weight_decay_spares_what_timm_spares(name: str) -> None:
    model, _ = built(f"timm/{name}")
    spared, decayed = param_groups_weight_decay(model, 0.05, no_weight_decay_list=model.no_weight_decay())
    assert decayed_parameters(model) == set(decayed["params"])
    assert any(parameter.ndim > 1 for parameter in spared["params"])


@pytest.mark.parametrize(
    ("backbone", "spared"),
    [
        ("alexnet", set()),
        ("mobilenet_v2", set()),
        ("resnet18", set()),
        ("convnext_tiny", {"layer_scale"}),
        ("vit_b_16", {"class_token", "pos_embedding"}),
        ("swin_t", {"relative_position_bias_table"}),
    ],
)
def test_weight_decay_is_for_weights(backbone: str, spared: set[str]) -> None:
    """Of what has two dimensions or more, all but these is the weight of a linear layer or a convolution."""
    model, _ = built(f"torchvision/{backbone}")
    weights = {
        weight
        for module in model.modules()
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.MultiheadAttention))
        for name, weight in module.named_parameters(recurse=False)
        if name in ("weight", "in_proj_weight")
    }
    assert decayed_parameters(model) == weights
    rest = {name for name, p in model.named_parameters() if p.ndim > 1 and p not in weights}
    assert {name.rpartition(".")[2] for name in rest} == spared


def test_a_normalisation_of_whole_maps_has_no_weight_decay() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.LayerNorm([4, 8, 8]))
    assert decayed_parameters(network) == {network[0].weight}
