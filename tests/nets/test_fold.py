"""Folded networks against themselves, and what must not be folded."""

import pytest
import torch
from torch import Tensor, nn

from thaw.nets.backbones import build_backbone
from thaw.nets.fold import fold_batch_norm


def normalisations(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def trained(network: nn.Module) -> nn.Module:
    """Return a network in evaluation mode whose statistics, scales and shifts differ from their initial values."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            with torch.no_grad():
                for tensor in (module.weight, module.running_var):
                    tensor.uniform_(0.5, 1.5, generator=generator)
                for tensor in (module.bias, module.running_mean):
                    tensor.uniform_(-0.2, 0.2, generator=generator)
    return network.eval()


@pytest.mark.parametrize(
    ("backbone", "left"),
    [
        ("torchvision/mobilenet_v2", 0),
        ("torchvision/densenet121", 62),  # most of its normalisations come before their convolution
        ("timm/test_resnet", 0),
        ("timm/mobilenetv3_small_050", 0),  # its normalisations go on with an activation
        ("timm/regnetx_002", 0),
    ],
)
def test_a_folded_network_gives_the_same_logits(backbone: str, left: int) -> None:
    model = trained(build_backbone(backbone, "random", 3, seed=0)[0])
    images = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    folded = fold_batch_norm(model, images[:2])
    assert normalisations(folded) == left
    with torch.inference_mode():
        torch.testing.assert_close(folded(images), model(images), rtol=0, atol=1e-4 * float(model(images).abs().max()))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class ReadTwice(nn.Module):
    """The output of the convolution is read by the normalisation and once more."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.normalisation = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, images: Tensor) -> Tensor:
        made = self.convolution(images)
        return (made * self.normalisation(made)).mean((2, 3))


class Changed(ReadTwice):
    """The output of the convolution is changed in place before the normalisation reads it."""

    def forward(self, images: Tensor) -> Tensor:
        normalised: Tensor = self.normalisation(self.convolution(images).relu_())
        return normalised.mean((2, 3))


class Again(ReadTwice):
    """The normalisation reads a second convolution too."""

    def forward(self, images: Tensor) -> Tensor:
        normalised: Tensor = self.normalisation(self.convolution(images)) + self.normalisation(self.convolution(images))
        return normalised.mean((2, 3))


@pytest.mark.parametrize("kind", [ReadTwice, Changed, Again])
def test_what_cannot_be_folded_stays(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    network = trained(kind())
    images = torch.rand(2, 3, 8, 8)
    folded = fold_batch_norm(network, images)
    assert normalisations(folded) == 1
    with torch.inference_mode():
        assert torch.equal(folded(images), network(images))
