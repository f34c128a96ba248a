"""Freezing is total and named; the mode follows from it."""

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from thaw.errors import ModelError
from thaw.nets.freezing import ModuleRow, freeze, set_mode


def test_the_founding_arm_has_a_row_for_each_layer() -> None:
    model = torchvision.models.alexnet(num_classes=2)
    rows = freeze(model, "classifier.6", ["classifier.4", "classifier.6"])
    assert rows[0] == ModuleRow("features.0", "Conv2d", 23_296, False)
    assert rows[-2:] == [
        ModuleRow("classifier.4", "Linear", 16_781_312, True),
        ModuleRow("classifier.6", "Linear", 8_194, True),
    ]
    assert sum(row.parameters for row in rows) == 57_012_034
    assert [row.module for row in rows if row.trained] == ["classifier.4", "classifier.6"]
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {
        f"classifier.{layer}.{kind}" for layer in (4, 6) for kind in ("weight", "bias")
    }


@pytest.mark.parametrize(
    ("train", "trained"),
    [
        ("all", ["features.0", "features.3", "features.6", "features.8", "features.10"]),
        ("head", []),
        (["features.1?"], ["features.10"]),
        (["features.[36]", "features.8.weight"], ["features.3", "features.6", "features.8"]),
        (["features"], ["features.0", "features.3", "features.6", "features.8", "features.10"]),
        ("features.0", ["features.0"]),
    ],
)
def test_patterns(train: str | list[str], trained: list[str]) -> None:
    rows = freeze(torchvision.models.alexnet(), "classifier.6", train)
    assert [row.module for row in rows if row.trained and row.module.startswith("features")] == trained


def test_biases_of_attention_are_biases() -> None:
    network = nn.ModuleDict({"attention": nn.MultiheadAttention(8, 2), "head": nn.Linear(8, 2)})
    freeze(network, "head", "bias")
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert trained == {"attention.in_proj_bias", "attention.out_proj.bias", "head.weight", "head.bias"}


def test_freezing_again_starts_afresh() -> None:
    model = torchvision.models.resnet18()
    freeze(model, "fc", "all")
    rows = freeze(model, "fc", "head")
    assert [row.module for row in rows if row.trained] == ["fc"]


def test_parameters_of_one_module_may_part_and_shared_ones_count_once() -> None:
    model = timm.create_model("vit_tiny_patch16_224", img_size=32)
    rows = freeze(model, "head", ["cls_token"])
    own = [row for row in rows if row.module == ""]
    assert own == [ModuleRow("", "VisionTransformer", 5 * 192, False), ModuleRow("", "VisionTransformer", 192, True)]
    assert sum(row.parameters for row in rows) == sum(p.numel() for p in model.parameters())

    tied = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)})
    tied["b"].weight = tied["a"].weight
    assert [row.parameters for row in freeze(tied, "b", "all")] == [20, 4]


@pytest.mark.parametrize(
    ("pattern", "hint"),
    [
        ("clasifier.4", "did you mean classifier.4"),
        ("classifier.5", "did you mean classifier.6"),
        ("xyzzy", "its modules are features, classifier."),
        ("", "its modules are"),
    ],
)
def test_a_pattern_without_parameters_is_an_error_with_near_names(pattern: str, hint: str) -> None:
    with pytest.raises(ModelError, match=f"train = '{pattern}' matches nothing.*{hint}"):
        freeze(torchvision.models.alexnet(), "classifier.6", ["classifier.6", pattern])


def test_mode_of_dropout() -> None:
    model = torchvision.models.alexnet()
    freeze(model, "classifier.6", ["classifier.4", "classifier.6"])
    modes = {}
    for frozen in ("train", "eval"):
        set_mode(model, frozen)  # type: ignore[arg-type]
        modes[frozen] = [model.get_submodule(name).training for name in ("", "classifier.0", "classifier.3")]
    assert modes == {"train": [True, True, True], "eval": [True, False, False]}
    freeze(model, "classifier.6", ["classifier.1"])
    set_mode(model, "eval")
    assert [model.get_submodule(name).training for name in ("classifier.0", "classifier.3")] == [False, True]


@pytest.mark.parametrize("frozen", ["train", "eval"])
def test_batch_normalisation_follows_its_own_parameters(frozen: str) -> None:
    model = torchvision.models.mobilenet_v2()
    freeze(model, "classifier.1", ["features.17.conv.0.0", "features.18.1", "classifier.1"])
    set_mode(model, frozen)  # type: ignore[arg-type]
    training = [n for n, module in model.named_modules() if isinstance(module, nn.BatchNorm2d) and module.training]
    assert training == ["features.18.1"]


def test_batch_normalisation_without_parameters_follows_its_parent() -> None:
    def stage() -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, affine=False))

    model = nn.Sequential(stage(), stage())
    freeze(model, "1", ["1"])
    set_mode(model, "train")
    assert [model[0][1].training, model[1][1].training] == [False, True]


def test_a_branch_beside_the_trained_one_is_frozen() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Sequential(nn.Linear(3, 3), nn.Dropout())
            self.other = nn.Sequential(nn.Linear(3, 3), nn.Dropout())

        def forward(self, x: Tensor) -> Tensor:
            return self.one(x) + self.other(x)

    model = Branches()
    freeze(model, "one.0", "head")
    set_mode(model, "eval")
    assert [model.one[1].training, model.other[1].training] == [True, False]


def test_without_a_graph_the_order_of_registration_decides() -> None:
    class Crooked(nn.Sequential):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) if input.sum() > 0 else input

    model = Crooked(nn.Linear(3, 3), nn.Dropout(), nn.Linear(3, 3), nn.Dropout())
    freeze(model, "2", "head")
    set_mode(model, "eval")
    assert [layer.training for layer in model] == [False, False, True, True]
    assert model(torch.ones(1, 3)).shape == (1, 3)
