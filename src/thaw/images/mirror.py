"""Views at test: the logits of an image averaged with those of its mirror image."""

from torch import Tensor, nn


class WithMirror(nn.Module):
    """Map pixels uint8 (n, height, width, 3) to the mean of a network's logits for them and for their mirror images."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.network(pixels).float() + self.network(pixels.flip(2)).float()
        return logits / 2


def average_views(network: nn.Module, views: int) -> nn.Module:
    """Return a network, from pixels to logits, that averages so many views: 1 is itself, 2 adds the mirror image."""
    return WithMirror(network) if views == 2 else network


def head_path(head: str, views: int) -> str:
    """Return the name of a model's head in what `average_views` makes of normalisation and model, one after another."""
    return f"network.1.{head}" if views == 2 else f"1.{head}"
