"""A network that gives, beside its logits, what enters its head: the features."""

from torch import Tensor, nn


def flat(entered: Tensor) -> Tensor:
    """Return what enters a head as (n, features) float32: of a map, as in SqueezeNet, the mean over the picture."""
    return entered.mean((2, 3)).float() if entered.dim() == 4 else entered.flatten(1).float()


class WithFeatures(nn.Module):
    """From what a network takes to its logits (n, classes) and the features that enter its head (n, features).

    Where the network runs its head several times, as for an image and its mirror image, they are those of the first.

    Parameters
    ----------
    network
        Any network; its logits stay as they are.
    head
        The name of its head.
    """

    def __init__(self, network: nn.Module, head: str) -> None:
        super().__init__()
        self.network = network
        self.head = head

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        entered: list[Tensor] = []
        hook = self.network.get_submodule(self.head).register_forward_pre_hook(
            lambda _, taken: entered.append(taken[0])
        )
        try:
            logits: Tensor = self.network(*inputs)
        finally:
            hook.remove()
        return logits, flat(entered[0])
