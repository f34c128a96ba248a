"""How deep a network can be thawed: where it can be cut, what is computed from there on, and which cuts to choose."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from thaw.nets.decay import layers_in_order
from thaw.nets.freezing import ModuleRow
from thaw.nets.prefix.observe import counting, undone
from thaw.nets.prefix.trace import twin


@dataclass(frozen=True)
class Depth:
    """A network cut before one of its layers: what comes from there on can train."""

    modules: tuple[str, ...]
    """The modules from there on, in running order, the head last."""
    macs: int
    """Multiply-adds per image from there on."""

    def holds(self, module: str) -> bool:
        """Whether a module is one of these, or inside one."""
        return any(f"{module}.".startswith(f"{above}.") for above in self.modules)


def depths_of(model: nn.Module, head: str, native: int, sides: tuple[int, int]) -> list[Depth]:
    """Return every depth of a network, from the whole of it to the head alone.

    The layers are those that layer decay counts, see `decay.layers_in_order`. Arithmetic counts from where the first
    of its modules begins to run, as `prefix.observe.macs` counts it.

    Parameters
    ----------
    model
        The network; not changed.
    head
        The name of the module that computes the logits.
    native
        Height and width of the images on which the order of the layers is observed.
    sides
        Height and width of the images for which arithmetic is counted.
    """
    layers = [*layers_in_order(model, head, native), [head]]
    network = twin(model).eval()
    begun: dict[int, int] = {}
    device = next(model.parameters()).device
    with undone(network, device), counting(network) as so_far:

        def watch(module: nn.Module, place: int) -> None:
            def note(*_: object) -> None:
                begun.setdefault(place, so_far())

            module.register_forward_pre_hook(note)

        for place, parts in enumerate(layers):
            for module in (module for part in parts for module in network.get_submodule(part).modules()):
                watch(module, place)
        network(torch.zeros(1, 3, *sides, device=device))
        total = so_far()
    first = [min(number for place, number in begun.items() if place >= depth) for depth in range(len(layers))]
    return [
        Depth(tuple(part for parts in layers[depth:] for part in parts), total - before if depth else total)
        for depth, before in enumerate(first)
    ]


def choose_depths(macs: Sequence[int], count: int) -> list[int]:
    """Choose depths whose arithmetic rises as evenly as the layers allow, both ends included.

    Of all choices the one with the least sum of squared distances from even steps.

    Parameters
    ----------
    macs
        Multiply-adds from each depth on, falling, as `depths_of` gives them.
    count
        How many to choose; at least 2. Of fewer depths, all are.

    Returns
    -------
    list of int
        Their places, the shallowest first: the last of `macs`, then smaller ones, down to 0.
    """
    places = list(range(len(macs)))[::-1]
    if len(places) <= count:
        return places
    step = (macs[0] - macs[-1]) / (count - 1)
    # by the place chosen last: the least sum so far, and the choice that has it
    best = {places[0]: (0.0, [places[0]])}
    for number in range(1, count):
        wanted = macs[-1] + number * step
        left = count - 1 - number
        best = {
            place: min(
                (sum_ + (macs[place] - wanted) ** 2, [*chosen, place])
                for last, (sum_, chosen) in best.items()
                if last > place
            )
            for place in range(len(macs) - 1 - number, left - 1, -1)
        }
    return best[0][1]


def depth_of(modules: Sequence[ModuleRow], depths: Sequence[Depth]) -> Depth | None:
    """Return the depth from which on everything trains, and nothing before; None where what trains is not such.

    Parameters
    ----------
    modules
        What of a network trains, see `freezing.freeze`.
    depths
        Those of the network, see `depths_of`.
    """
    if all(row.trained for row in modules):
        return depths[0]
    return next((depth for depth in depths if all(row.trained == depth.holds(row.module) for row in modules)), None)
