"""A prefix that extends another starts from what that one keeps; a middle is the suffix up to what trains."""

import pytest
import torch
from torch import Tensor, nn

from thaw.nets.backbones import build_backbone
from thaw.nets.freezing import freeze, set_mode
from thaw.nets.prefix.extend import extend
from thaw.nets.prefix.middle import split_middle
from thaw.nets.prefix.split import Split, split
from thaw.nets.prefix.trace import twin

IMAGES = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def parts_of(backbone: str, train: str | list[str], frozen: str = "eval") -> tuple[nn.Module, Split]:
    model, head = build_backbone(backbone, "random", 3, seed=0)
    freeze(model, head, train)
    set_mode(model, frozen)  # type: ignore[arg-type]
    return model, split(model, IMAGES)


@pytest.mark.parametrize(
    ("backbone", "early", "late"),
    [
        ("torchvision/alexnet", ["classifier.4", "classifier.6"], "head"),
        ("torchvision/mobilenet_v2", ["features.17", "features.18", "classifier.1"], "head"),
        ("torchvision/resnet18", ["layer4", "fc"], "head"),
        ("torchvision/swin_t", ["features.7", "norm", "head"], "head"),
        ("timm/vit_tiny_patch16_224", ["blocks.11", "norm", "head"], "head"),
    ],
)
def test_a_longer_prefix_continues_from_a_shorter_one_to_the_bit(
    backbone: str, early: list[str], late: str | list[str]
) -> None:
    images = torch.rand(3, 3, 224, 224) if "vit" in backbone else IMAGES
    model, head = build_backbone(backbone, "random", 3, seed=0)
    other = twin(model)
    freeze(model, head, early)
    set_mode(model, "eval")
    shorter = split(model, images)
    freeze(other, head, late)
    set_mode(other, "eval")
    longer = split(other, images)
    assert shorter.prefix is not None
    assert longer.prefix is not None
    found = extend(shorter.cut, longer.prefix)
    assert found is not None
    before, after = found
    with torch.inference_mode():
        kept, expected = shorter.prefix(images), longer.prefix(images)
        assert all(map(torch.equal, before(images), kept))
        assert all(map(torch.equal, after(*kept), expected))
    assert extend(longer.cut, shorter.prefix) is None


def test_prefixes_of_different_networks_do_not_extend_each_other() -> None:
    _, alexnet = parts_of("torchvision/alexnet", ["classifier.4", "classifier.6"])
    _, resnet = parts_of("torchvision/resnet18", "head")
    assert alexnet.prefix is not None
    assert resnet.prefix is not None
    assert extend(alexnet.cut, resnet.prefix) is None
    assert extend(resnet.cut, alexnet.prefix) is None


@pytest.mark.parametrize("train", ["head", ["classifier.4", "classifier.6"]])
def test_middle_and_trainable_are_the_suffix_to_the_bit(train: str | list[str]) -> None:
    model, parts = parts_of("torchvision/alexnet", train, "train")
    middle, trainable = split_middle(parts.suffix)
    assert middle is not None
    assert not any(p.requires_grad for p in middle.parameters())
    assert parts.prefix is not None
    inputs: tuple[Tensor, ...] = parts.prefix(IMAGES)
    results = []
    for run in (lambda: parts.suffix(*inputs), lambda: trainable(*middle(*inputs))):
        torch.manual_seed(5)
        logits = run()
        gradients = torch.autograd.grad(logits.square().sum(), [p for p in model.parameters() if p.requires_grad])
        results.append((logits, *gradients, torch.rand(4)))
    assert all(map(torch.equal, *results))


def test_without_anything_before_what_trains_there_is_no_middle() -> None:
    _, head = parts_of("torchvision/resnet18", "head")
    assert split_middle(head.suffix) == (None, head.suffix)
    _, whole = parts_of("torchvision/resnet18", "all")
    assert split_middle(whole.suffix) == (None, whole.suffix)
