"""The split's edges: frontiers, keys, writing in place, values that cannot be kept, and networks that run whole."""

import copy
from collections.abc import Callable

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from thaw.nets.freezing import freeze, set_mode
from thaw.nets.prefix.observe import macs
from thaw.nets.prefix.split import Cut, Split, split

IMAGES = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def alexnet(train: list[str], frozen: str) -> Split:
    torch.manual_seed(0)
    model = torchvision.models.alexnet(num_classes=2)
    freeze(model, "classifier.6", train)
    set_mode(model, frozen)  # type: ignore[arg-type]
    return split(model, torch.zeros(1, 3, 224, 224))


def test_active_dropout_puts_both_founding_arms_behind_one_frontier() -> None:
    head = alexnet(["classifier.6"], "train")
    last_two = alexnet(["classifier.4", "classifier.6"], "train")
    assert head.cut.frontier == last_two.cut.frontier == ("flatten",)
    assert head.shapes == last_two.shapes == ((9216,),)
    assert head.cut.graph == last_two.cut.graph
    assert head.cut.macs / head.total_macs > 0.9
    assert head.total_macs == last_two.total_macs == 710_100_672  # 714,188,480 with ImageNet's 1,000 classes
    logits = [head.suffix(torch.ones(2, 9216)) for _ in range(2)]
    assert not torch.equal(*logits)  # the dropout before the head is active


def test_dropout_in_evaluation_mode_moves_the_frontier_to_the_head() -> None:
    head = alexnet(["classifier.6"], "eval")
    last_two = alexnet(["classifier.4", "classifier.6"], "eval")
    assert head.cut.frontier == ("classifier.5",)
    assert head.shapes == last_two.shapes == ((4096,),)
    assert head.cut.graph != last_two.cut.graph
    assert torch.equal(*[head.suffix(torch.ones(2, 4096)) for _ in range(2)])


def test_parts_share_the_model_and_leave_random_numbers_and_statistics_alone() -> None:
    torch.manual_seed(0)
    model = torchvision.models.mobilenet_v2(num_classes=2)
    freeze(model, "classifier.1", ["features.18", "classifier.1"])
    state, before = torch.get_rng_state(), copy.deepcopy(model.state_dict())
    set_mode(model, "eval")
    parts = split(model, IMAGES)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    mine = {id(parameter) for parameter in model.parameters()}
    assert parts.prefix is not None
    for part in (parts.prefix, parts.suffix, parts.evaluation):
        assert {id(parameter) for parameter in part.parameters()} <= mine
    assert {id(p) for p in parts.suffix.parameters()} >= {id(p) for p in model.parameters() if p.requires_grad}


def test_evaluation_follows_training_although_modules_remember() -> None:
    """TinyViT keeps its attention biases while in evaluation mode; evaluation must see the trained ones."""
    model = timm.create_model("tiny_vit_5m_224", num_classes=2)
    freeze(model, "head.fc", ["stages.3", "head"])
    set_mode(model, "eval")
    parts = split(model, IMAGES)
    assert parts.prefix is not None
    with torch.no_grad():
        kept = parts.prefix(IMAGES)
        parts.evaluation(*kept)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
        assert torch.equal(parts.evaluation(*kept), copy.deepcopy(model).eval()(IMAGES))


def test_everything_trains() -> None:
    model = torchvision.models.resnet18(num_classes=2)
    freeze(model, "fc", "all")
    set_mode(model, "eval")
    parts = split(model, IMAGES)
    assert parts.prefix is None
    assert parts.suffix is model
    assert model.training
    assert not parts.evaluation.training
    assert (parts.cut, parts.shapes, parts.reason) == (Cut("", (), (), 0), (), "")
    with torch.no_grad():
        assert torch.equal(parts.evaluation(IMAGES), copy.deepcopy(model).eval()(IMAGES))


def test_first_layer_trains() -> None:
    model = torchvision.models.resnet18(num_classes=2)
    freeze(model, "fc", ["conv1"])
    set_mode(model, "eval")
    parts = split(model, IMAGES)
    assert parts.prefix is None
    assert parts.suffix is model
    assert "before its first" in parts.reason


class Small(nn.Module):
    """A frozen convolution, whatever `middle` does with its output, and a head that trains."""

    def __init__(self, middle: Callable[["Small", Tensor], Tensor]) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, stride=2)
        self.table = nn.Parameter(torch.randn(4))
        self.norm = nn.BatchNorm2d(4, affine=False)
        self.scale = nn.Parameter(torch.ones(1))
        self.head = nn.Linear(4, 2)
        self.middle = middle

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.middle(self, self.first(images)).mean((2, 3)))


def double_in_place(_: Small, x: Tensor) -> Tensor:
    before = x + 1
    x.mul_(2)
    return before + x


def relu_after_reading(self: Small, x: Tensor) -> Tensor:
    read = x + self.scale
    return read + x.relu_()


def trained_addition(self: Small, x: Tensor) -> Tensor:
    x += self.scale
    return x


def sum_over_the_batch(_: Small, x: Tensor) -> Tensor:
    return x + x.mean(0)


def batch_last(_: Small, x: Tensor) -> Tensor:
    return (x.permute(1, 2, 3, 0).contiguous() * 2).permute(3, 0, 1, 2)


def windows(self: Small, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    rows = x.transpose(1, 2).reshape(n * h, c, w).softmax(2)
    return (rows * self.scale).reshape(n, h, c, w).transpose(1, 2)


def frozen_table(self: Small, x: Tensor) -> Tensor:
    return x + (self.table.exp() * self.scale).view(1, -1, 1, 1).expand(x.shape[0], -1, 1, 1)


def noise(_: Small, x: Tensor) -> Tensor:
    return x + torch.randn_like(x)


def functional_dropout(self: Small, x: Tensor) -> Tensor:
    return functional.dropout(x, 0.5, self.training)


def channels_last(self: Small, x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2) * self.scale


@pytest.mark.parametrize(
    ("middle", "shapes"),
    [
        (double_in_place, [(4,)]),
        (relu_after_reading, [(4, 31, 31)]),
        (trained_addition, [(4, 31, 31)]),
        (sum_over_the_batch, [(4, 31, 31)]),
        (batch_last, [(4,)]),
        (windows, [(31, 4, 31)]),
        (frozen_table, [(4, 31, 31)]),
        (noise, [(4, 31, 31)]),
        (functional_dropout, [(4, 31, 31)]),
        (channels_last, [(31, 31, 4)]),
    ],
)
@pytest.mark.parametrize("size", [3, 5])
def test_whatever_the_middle_does_the_parts_equal_the_whole(
    middle: Callable[[Small, Tensor], Tensor], shapes: list[tuple[int, ...]], size: int
) -> None:
    torch.manual_seed(0)
    model = Small(middle)
    freeze(model, "head", ["head", "scale"])
    whole = copy.deepcopy(model)
    set_mode(whole, "train")
    set_mode(model, "train")
    parts = split(model, IMAGES)
    assert parts.prefix is not None, parts.reason
    assert list(parts.shapes) == shapes
    images = torch.randn(size, 3, 64, 64)
    with torch.no_grad():
        kept = parts.prefix(images)
    before = [tensor.clone() for tensor in kept]
    results = []
    for network, inputs in ((parts.suffix, kept), (whole, (images,))):
        torch.manual_seed(1)
        logits = network(*inputs)
        logits.square().sum().backward()
        results.append(logits)
    assert torch.equal(*results)
    for parameter, expected in zip(model.parameters(), whole.parameters(), strict=True):
        assert (parameter.grad is None) == (expected.grad is None)
        assert parameter.grad is None or torch.equal(parameter.grad, expected.grad)
    assert all(torch.equal(a, b) for a, b in zip(kept, before, strict=True))
    with torch.no_grad():
        if middle is not noise:
            assert torch.equal(parts.evaluation(*kept), whole.eval()(images))


def test_networks_that_cannot_be_followed_run_whole() -> None:
    class Crooked(Small):
        def forward(self, images: Tensor) -> Tensor:
            x = self.first(images)
            return self.head((x if x.sum() > 0 else -x).mean((2, 3)))

    model = Crooked(noise)
    freeze(model, "head", "head")
    set_mode(model, "eval")
    parts = split(model, IMAGES)
    assert parts.prefix is None
    assert parts.suffix is model
    assert "cannot be traced" in parts.reason


def test_a_part_that_reads_what_was_overwritten_runs_whole() -> None:
    def read_late(self: Small, x: Tensor) -> Tensor:
        x.mul_(self.scale + 1)
        return x.relu()

    torch.manual_seed(0)
    model = Small(read_late)
    freeze(model, "head", ["head", "scale"])
    set_mode(model, "eval")
    parts = split(model, IMAGES)
    assert parts.prefix is None
    assert "other numbers" in parts.reason


def test_key_stands_for_the_computation_and_the_names_it_reads() -> None:
    def key(first: str, stride: int = 1) -> str:
        layers = {first: nn.Conv2d(3, 4, 3, stride), "pool": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten()}
        model = nn.Sequential()
        for name, layer in (layers | {"head": nn.Linear(4, 2)}).items():
            model.add_module(name, layer)
        freeze(model, "head", "head")
        set_mode(model, "eval")
        return split(model, IMAGES).cut.graph

    assert key("first") == key("first")
    assert len({key("first"), key("other"), key("first", stride=2)}) == 3


def test_frozen_batch_normalisation_after_a_trained_layer_keeps_its_statistics() -> None:
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=2)
    freeze(model, "fc", ["layer4.0.conv1", "fc"])
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    set_mode(model, "eval")
    parts = split(model, IMAGES)
    assert parts.prefix is not None
    with torch.no_grad():
        parts.suffix(*parts.prefix(IMAGES))
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["alexnet", "mobilenet_v2", "swin_t"])
def test_split_on_a_gpu(name: str) -> None:
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, num_classes=2).cuda()
    freeze(model, "", [next(reversed(dict(model.named_parameters()))).rpartition(".")[0]])
    images = IMAGES.cuda()
    with torch.autocast("cuda", torch.bfloat16):
        set_mode(model, "eval")
        parts = split(model, images)
        assert parts.prefix is not None, parts.reason
        with torch.no_grad():
            assert torch.equal(parts.evaluation(*parts.prefix(images)), copy.deepcopy(model).eval()(images))


def test_operations_are_counted_where_a_layer_is_given_a_trained_parameter() -> None:
    class Token(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token, self.layer = nn.Parameter(torch.zeros(1, 8)), nn.Linear(8, 4)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.layer(self.token) + images.mean()

    network = Token()
    with torch.no_grad():
        assert macs(network, torch.zeros(1, 3, 4, 4)) == 8 * 4
    assert all(parameter.requires_grad for parameter in network.parameters())
