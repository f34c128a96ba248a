"""The prefix's output, computed once per image and kept."""

import hashlib

import numpy as np
import torch
from torch import Tensor, nn

from thaw.cache.arrays import Array, Entry, Field, Made, cached, kept_bytes, key_of
from thaw.cache.budget import CACHE_BYTES, cache_folder, room
from thaw.cache.files import no_room, size
from thaw.compute.batches import Inputs, consecutive
from thaw.compute.device import Compute
from thaw.progress import say, stage

BATCH = 256
"""Images that the prefix sees at a time; part of the key, since kernels may round differently at another size."""


def fingerprint(network: nn.Module) -> str:
    """A digest of every parameter and buffer of a network: names, shapes, types and values."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(network.state_dict().items()):
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
        digest.update(values.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def make_activations(prefix: nn.Module, inputs: Inputs, computation: str, compute: Compute) -> Entry | None:
    """The output of `prefix` for every image: arrays with first dimension n, from the cache or made now.

    `prefix` takes what `inputs` gives and returns a tuple of tensors, one row per image; `computation` stands for all
    that determines them but batch, device and precision. None, after a line that says so, when they are larger than the
    cache may be. Raises StorageError where the disk has no room for them.
    """
    count = len(inputs)
    sample = run(prefix, next(inputs.batches([np.arange(2) % count])), compute)
    fields = [Field(tuple(array.shape[1:]), array.dtype.str) for array in sample]
    wanted = sum(array[0].nbytes for array in sample) * count
    how = [compute.device.type, compute.precision, torch.__version__]
    key = key_of(computation=computation, batch=BATCH, compute=how)

    def make(first: int) -> Made:
        batches = consecutive(np.arange(first, count), BATCH)
        with stage("activations", count, "images", first) as advance:
            for rows, tensors in zip(batches, inputs.batches(batches), strict=True):
                yield run(prefix, tensors, compute), {}
                advance(len(rows))

    if wanted > CACHE_BYTES:
        say(f"the activations would take {size(wanted)}, more than the cache may; the network runs whole")
        return None
    missing = wanted - kept_bytes("activations", key)
    if missing > room():
        raise no_room(cache_folder(), missing, 'make room, or set cache.activations = "off",')
    return cached("activations", key, count, fields, make)


def run(prefix: nn.Module, tensors: tuple[Tensor, ...], compute: Compute) -> tuple[Array, ...]:
    """One batch through the prefix; bfloat16 comes back as uint16, which numpy can hold."""
    with torch.inference_mode(), compute.autocast():
        outputs = prefix(*tensors)
    return tuple(
        (output.view(torch.uint16) if output.dtype == torch.bfloat16 else output).cpu().numpy() for output in outputs
    )
