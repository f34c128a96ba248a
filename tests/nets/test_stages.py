"""Blocks, and the last stage of any backbone."""

import pytest
import torch
import torchvision

from thaw.nets.backbones import build_backbone
from thaw.nets.freezing import freeze
from thaw.nets.stages import blocks, last_stage


@pytest.mark.parametrize(
    ("backbone", "expected"),
    [
        ("torchvision/resnet18", ["layer4.0", "layer4.1"]),
        ("torchvision/densenet121", ["features.denseblock4", "features.norm5"]),
        ("torchvision/efficientnet_b0", ["features.6", "features.7", "features.8"]),
        ("torchvision/swin_t", ["features.6", "features.7", "norm"]),
        ("torchvision/alexnet", ["classifier.1", "classifier.4"]),
        ("timm/convnext_atto", ["stages.3", "head.norm"]),
        ("timm/vit_tiny_patch16_224", ["blocks.9", "blocks.10", "blocks.11", "norm"]),
        ("timm/mobilenetv3_small_050", ["blocks.4", "blocks.5", "conv_head"]),
    ],
)
def test_the_last_stage_is_what_the_architecture_calls_so(backbone: str, expected: list[str]) -> None:
    model, head = build_backbone(backbone, "random", 2, seed=0)
    assert last_stage(blocks(model, head, 224)) == expected


def test_blocks_of_torchvisions_transformer_leave_its_position_embedding_out() -> None:
    model = torchvision.models.vit_b_16(num_classes=2)
    assert [block.name for block in blocks(model, "heads.head", 224)] == [
        "conv_proj",
        *(f"encoder.layers.encoder_layer_{index}" for index in range(12)),
        "encoder.ln",
    ]


@pytest.mark.parametrize(("train", "kinds"), [("norm", {"BatchNorm2d", "Linear"}), ("bias", {"BatchNorm2d", "Linear"})])
def test_norms_or_biases_train_with_the_head(train: str, kinds: set[str]) -> None:
    model = torchvision.models.resnet18(num_classes=2)
    rows = freeze(model, "fc", train)
    assert {row.kind for row in rows if row.trained} == kinds
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    norms = {name for name, _ in model.named_parameters() if "bn" in name or "downsample.1" in name}
    biases = {name for name in norms if name.endswith("bias")}
    assert names == {"fc.weight", "fc.bias", *(norms if train == "norm" else biases)}


def test_looking_for_blocks_changes_nothing() -> None:
    model = torchvision.models.resnet18(num_classes=2).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    blocks(model, "fc", 64)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
