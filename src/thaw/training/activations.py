"""A prefix's output for every image: computed once, cached under a key of all that determines it."""

import hashlib
from collections.abc import Iterable
from dataclasses import asdict

import numpy as np
import torch
from torch import Tensor, fx, nn

from thaw.cache.arrays import Array, CachedArrays, Chunks, Field, cached, entry_bytes, key_of, opened
from thaw.cache.budget import available_bytes, cache_folder, cache_limit
from thaw.cache.files import no_room
from thaw.compute.batches import Inputs, Rows, consecutive, make_inputs
from thaw.compute.device import Compute
from thaw.data.dataset import View
from thaw.images.preprocessing import Preprocessing, Size, sides
from thaw.nets.prefix.extend import extend
from thaw.nets.prefix.split import Cut, Split
from thaw.progress import stage
from thaw.record import Record

BATCH = 256
"""Images that the prefix sees at a time; part of the key, since kernels may round differently at another size."""


class Prefix(Record):
    """Work that is done once: a network's static part over all images, described without the network."""

    cut: Cut
    """Where it ends."""
    values: str
    """A digest of its parameters and buffers."""
    fields: tuple[Field, ...]
    """What is cached of each view."""

    @property
    def bytes_per_view(self) -> int:
        """Bytes cached of each view of an image."""
        return sum(field.row_bytes() for field in self.fields)

    def fits(self, rows: int) -> bool:
        """Whether the cache may hold its activations of so many images, each view of one counted."""
        return self.bytes_per_view * rows <= cache_limit()

    def key(self, view: View, preprocessing: Preprocessing, compute: Compute) -> str:
        """The content key of its activations of a view: of everything that determines them, and of nothing else."""
        return key_of(
            pixels=view.key,
            preprocessing=asdict(preprocessing),
            computation=self.cut.graph,
            values=self.values,
            fields=[asdict(field) for field in self.fields],
            batch=BATCH,
            compute=[compute.device.type, compute.precision, torch.__version__],
        )


def describe_prefix(split: Split, size: Size, compute: Compute) -> Prefix | None:
    """Describe the prefix of a split network that takes images of a size; None where it runs whole.

    Parameters
    ----------
    split
        The network, on the device.
    size
        What the network sees.
    compute
        The device and precision, on which the dtypes of the output depend.
    """
    if split.prefix is None:
        return None
    sample = run(split.prefix, (torch.zeros(2, 3, *sides(size), device=compute.device),), compute)
    fields = tuple(Field(tuple(array.shape[1:]), array.dtype.str) for array in sample)
    return Prefix(cut=split.cut, values=fingerprint(split.prefix), fields=fields)


def fingerprint(network: nn.Module) -> str:
    """Digest every parameter and buffer of a network: names, shapes, types and values."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(network.state_dict().items()):
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
        digest.update(values.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def cached_activations(
    prefix: Prefix,
    network: nn.Sequential,
    view: View,
    preprocessing: Preprocessing,
    compute: Compute,
    shorter: Iterable[Prefix] = (),
) -> CachedArrays:
    """The activations of a prefix for the images of a view, from the cache or computed now.

    Parameters
    ----------
    prefix
        What is computed.
    network
        The normalisation, then the prefix itself: uint8 pixels to a tuple of tensors with a row for each image.
    view
        The images, and how they are seen; each view is an entry of its own, so that more of them reuse the first.
    preprocessing
        What the normalisation normalises with.
    compute
        The device and precision.
    shorter
        Prefixes whose activations may be cached already. Computing goes on from the longest that this one contains,
        where that gives the same bits as computing from the pixels, which the first and the last batch tell.

    Returns
    -------
    CachedArrays
        An array (rows of the view, ...) for each of the prefix's fields.

    Raises
    ------
    StorageError
        The disk has no room for them.
    """
    count, key = len(view.rows), prefix.key(view, preprocessing, compute)
    found = opened("activations", key, count, prefix.fields)
    if found is not None:
        return found
    # those held are not removed to make room for the new ones
    held = [
        (one, opened("activations", one.key(view, preprocessing, compute), count, one.fields))
        for one in _before(prefix, shorter)
    ]
    missing = prefix.bytes_per_view * count - entry_bytes("activations", key)
    if missing > available_bytes():
        held.clear()
    if missing > available_bytes():
        raise no_room(cache_folder(), missing, 'free some space, or set cache.activations = "off",')

    def make(first: int) -> Chunks:
        rest = (_go_on(start, entry, network, view, compute) for start, entry in held if entry is not None)
        computation, inputs, order = next(filter(None, rest), (network, view.pixels, view.rows))
        batches = consecutive(order[first:], BATCH)
        with stage("activations", count, "images", first) as advance:
            for rows, tensors in zip(batches, inputs.batches(batches), strict=True):
                yield run(computation, tensors, compute), {}
                advance(len(rows))

    return cached("activations", key, count, prefix.fields, make)


def _before(prefix: Prefix, others: Iterable[Prefix]) -> list[Prefix]:
    """Those of the others that a prefix may contain, the longest first."""
    fitting = (one for one in others if one.cut.graph != prefix.cut.graph)
    return sorted((one for one in fitting if one.cut.macs <= prefix.cut.macs), key=lambda one: -one.cut.macs)


def run(prefix: nn.Module, tensors: tuple[Tensor, ...], compute: Compute) -> tuple[Array, ...]:
    """Run one batch through the prefix; bfloat16 comes back as uint16, which numpy can hold.

    Parameters
    ----------
    prefix
        The normalisation, then the prefix; or what goes on from a shorter one.
    tensors
        Its inputs on the device: pixels uint8 (batch, height, width, 3), or activations.
    compute
        The device and precision.

    Returns
    -------
    tuple of array
        For each crossing tensor (batch, ...), on the CPU.
    """
    with torch.inference_mode(), compute.autocast():
        outputs = prefix(*tensors)
    return tuple(
        (output.view(torch.uint16) if output.dtype == torch.bfloat16 else output).cpu().numpy() for output in outputs
    )


def _go_on(
    start: Prefix, entry: CachedArrays, network: nn.Sequential, view: View, compute: Compute
) -> tuple[nn.Module, Inputs, Rows] | None:
    """What computes the rest from the activations of a shorter prefix, these, and their rows in order.

    None where the bits would differ.
    """
    prefix = network[-1]
    assert isinstance(prefix, fx.GraphModule)
    extension = extend(start.cut, prefix)
    if extension is None or fingerprint(extension[0]) != start.values:
        return None
    after, mapped = extension[1], Inputs(entry.arrays, compute.device)
    order = np.arange(len(view.rows))
    batches: list[Rows] = consecutive(order, BATCH)
    for rows in {0: batches[0], len(batches) - 1: batches[-1]}.values():
        (whole,), (rest,) = view.pixels.batches([view.rows[rows]]), mapped.batches([rows])
        pairs = zip(run(network, whole, compute), run(after, rest, compute), strict=True)
        if not all(np.array_equal(one, other, equal_nan=one.dtype.kind == "f") for one, other in pairs):
            return None
    return after, make_inputs(entry.arrays, compute.device), order
