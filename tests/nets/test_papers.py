"""Each way of training by the definition of its paper: which parameters train, in names and numbers, on each family.

The head alone (linear probe); norm, as Frankle et al. (2021) train batch normalisation alone; bias, BitFit of Ben Zaken
et al. (2022); lora, Hu et al. (2022), on all linear layers; the last stage of the architecture.
"""

import re
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from helpers.studies import SETTLED
from thaw.errors import ModelError
from thaw.nets.adapters import add_adapters
from thaw.nets.backbones import build_backbone
from thaw.nets.freezing import freeze
from thaw.recipe import Arm, Recipe, load_recipe
from thaw.training.specs import head_only, resolve_arm

RANK = 8


@dataclass(frozen=True)
class Family:
    head: str
    stage: str
    """The names of modules of the last stage, without the head."""
    norms: str
    """The names of normalisation layers."""
    adapted: str
    """The names of the weights that LoRA adapts."""
    numbers: dict[str, int]
    """For each way the number of values that train; a way that the network has nothing for is left out."""


FAMILIES = {
    "torchvision/alexnet": Family(
        "classifier.6",
        r"classifier\.[14]",
        r"(?!)",
        r"classifier\.[14]\.weight",
        {"all": 57_012_034, "head": 8_194, "last-stage": 54_542_338, "bias": 17_538, "lora": 180_226},
    ),
    "torchvision/mobilenet_v2": Family(
        "classifier.1",
        r"features\.1[4-8]\..*",
        r"features\.(0|18)\.1|features\.1\.conv\.(0\.1|2)|features\.\d+\.conv\.([01]\.1|3)",
        r"features\.1\.conv\.1\.weight|features\.([2-9]|1[0-7])\.conv\.(0\.0|2)\.weight|features\.18\.0\.weight",
        {
            "all": 2_226_434,
            "head": 2_562,
            "last-stage": 1_683_906,
            "norm": 36_674,
            "bias": 19_618,
            "lora": 150_786,
        },
    ),
    "torchvision/resnet18": Family(
        "fc",
        r"layer4\..*",
        r"(.*\.)?bn\d|.*\.downsample\.1",
        r"(?!)",
        {"all": 11_177_538, "head": 1_026, "last-stage": 8_394_754, "norm": 10_626, "bias": 5_826},
    ),
    "torchvision/convnext_tiny": Family(
        "classifier.2",
        r"features\.[67]\..*|classifier\.0",
        r"features\.0\.1|features\.[246]\.0|features\.[1357]\.\d\.block\.2|classifier\.0",
        r"features\.[1357]\.\d\.block\.[35]\.weight",
        {
            "all": 27_821_666,
            "head": 1_538,
            "last-stage": 15_473_666,
            "norm": 17_858,
            "bias": 50_882,
            "lora": 531_458,
        },
    ),
    "torchvision/vit_b_16": Family(
        "heads.head",
        r"encoder\.layers\.encoder_layer_(9|10|11)(\..*)?|encoder\.ln",
        r".*\.ln(_\d)?",
        r".*\.(self_attention\.(in_proj_weight|out_proj\.weight)|mlp\.[03]\.weight)",
        {
            "all": 85_800_194,
            "head": 1_538,
            "last-stage": 21_266_690,
            "norm": 39_938,
            "bias": 104_450,
            "lora": 1_328_642,
        },
    ),
    "torchvision/swin_t": Family(
        "head",
        r"features\.[67]\..*|norm",
        r"features\.0\.2|features\.[1357]\.\d\.norm[12]|features\.[246]\.norm|norm",
        r".*\.(attn\.(qkv|proj)|mlp\.[03]|reduction)\.weight",
        {
            "all": 27_520_892,
            "head": 1_538,
            "last-stage": 15_369_650,
            "norm": 26_306,
            "bias": 53_762,
            "lora": 599_042,
        },
    ),
    "timm/vit_tiny_patch16_224": Family(
        "head",
        r"blocks\.(9|10|11)\..*|norm",
        r"(.*\.)?norm\d?",
        r".*\.(attn\.(qkv|proj)|mlp\.fc[12])\.weight",
        {
            "all": 5_524_802,
            "head": 386,
            "last-stage": 1_335_362,
            "norm": 9_986,
            "bias": 26_114,
            "lora": 295_298,
        },
    ),
}


def built(backbone: str, adapters: bool = False) -> nn.Module:
    with torch.device("meta"):
        model, head = build_backbone(backbone, "random", 2, seed=0)
        assert head == FAMILIES[backbone].head
        if adapters:
            add_adapters(model, head, RANK, seed=0)
    return model


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def owned_by(model: nn.Module, pattern: str) -> set[str]:
    """The names of parameters whose module is called as the pattern says."""
    return {name for name, _ in model.named_parameters() if re.fullmatch(pattern, name.rpartition(".")[0])}


@pytest.mark.parametrize("way", ["all", "head", "last-stage", "norm", "bias"])
@pytest.mark.parametrize("backbone", FAMILIES)
def test_what_trains_is_what_the_paper_says(backbone: str, way: str) -> None:
    family, model = FAMILIES[backbone], built(backbone)
    head = {f"{family.head}.weight", f"{family.head}.bias"}
    if way not in family.numbers:
        with pytest.raises(ModelError, match=f"train = '{way}' finds no"):
            freeze(model, family.head, way, 224)
        return
    rows = freeze(model, family.head, way, 224)
    names = [name for name, _ in model.named_parameters()]
    expected = {
        "all": set(names),
        "head": head,
        "last-stage": owned_by(model, family.stage) | head,
        "norm": owned_by(model, family.norms) | head,
        "bias": {name for name in names if name.endswith("bias")} | head,
    }
    assert set(trained(model)) == expected[way]
    number = family.numbers[way]
    assert sum(parameter.numel() for parameter in trained(model).values()) == number
    assert sum(row.parameters for row in rows if row.trained) == number


@pytest.mark.parametrize("backbone", FAMILIES)
def test_adapters_are_two_thin_matrices_for_each_linear_layer(backbone: str) -> None:
    """Rank x (in + out) for each, of which a packed projection of queries, keys and values counts as three."""
    family, plain = FAMILIES[backbone], built(backbone)
    if "lora" not in family.numbers:
        with pytest.raises(ModelError, match="use 'last-stage'"):
            built(backbone, adapters=True)
        return
    model = built(backbone, adapters=True)
    freeze(model, family.head, "lora", 224)
    weights = {name: p for name, p in plain.named_parameters() if re.fullmatch(family.adapted, name)}
    expected = 0
    for name, weight in weights.items():
        outputs, inputs = weight.shape[:2]
        pairs = 3 if name.endswith("in_proj_weight") else 1
        expected += pairs * RANK * (inputs + outputs // pairs)
    assert weights
    head = {f"{family.head}.weight", f"{family.head}.bias"}
    adapters = {name: p for name, p in trained(model).items() if name not in head}
    assert set(trained(model)) - set(adapters) == head
    assert len(adapters) == 2 * len(weights)
    assert sum(parameter.numel() for parameter in adapters.values()) == expected
    assert sum(parameter.numel() for parameter in trained(model).values()) == family.numbers["lora"]
    # and no linear layer or 1 x 1 convolution is left out
    linear = {
        f"{name}.weight"
        for name, module in plain.named_modules()
        if isinstance(module, nn.Linear)
        or (isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.groups == 1)
    }
    packed = {name for name, _ in plain.named_parameters() if name.endswith("in_proj_weight")}
    assert set(weights) == (linear | packed) - head


def photos() -> Recipe:
    return load_recipe(
        "photos",
        ".",
        (
            *SETTLED,
            "model.weights=random",
        ),
    )


def test_a_probe_trains_the_head_alone_before_all_of_the_network() -> None:
    """LP-FT of Kumar et al. (2022), whatever the arm itself trains."""
    spec = resolve_arm("lp-ft", Arm(train="all", probe=True, layer_decay=0.8), photos())
    first = head_only(spec)
    model = built(spec.backbone)
    freeze(model, "classifier.1", first.train)
    assert set(trained(model)) == {"classifier.1.weight", "classifier.1.bias"}
    assert (first.layer_decay, first.probe, first.backbone, first.weights) == (1.0, False, spec.backbone, spec.weights)
    freeze(model, "classifier.1", spec.train)
    assert set(trained(model)) == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize("recipe", ["photos", "emoji-people"])
def test_the_last_stage_of_the_recipes_is_that_of_any_backbone(recipe: str) -> None:
    settings = load_recipe(recipe, "." if recipe == "photos" else None, SETTLED if recipe == "photos" else ())
    assert resolve_arm("last-stage", settings.arms["last-stage"], settings).train == "last-stage"
