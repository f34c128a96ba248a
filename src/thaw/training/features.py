"""Features of every image: what enters the head of the pretrained backbone."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from thaw.cache.arrays import Chunks, Field, cached, key_of
from thaw.compute.batches import Inputs, Rows, consecutive
from thaw.compute.device import Compute
from thaw.data.dataset import Dataset
from thaw.nets.entered import flat
from thaw.progress import stage
from thaw.training.activations import BATCH, Prefix, fingerprint
from thaw.training.prepare import prepare
from thaw.training.specs import ArmSpec
from thaw.versions import versions


@dataclass(frozen=True)
class Features:
    """A description of every image."""

    values: NDArray[np.float32]
    """(images, features), mapped."""
    key: str
    """A digest of everything that determines them."""

    def key_with(self, *given: NDArray[np.int64] | None) -> str:
        """A key of what probes of these features find: everything else that they are told is in `given`."""
        lists = [None if rows is None else rows.tolist() for rows in given]
        return key_of(features=self.key, given=lists, versions=versions("thaw-vision", "scikit-learn"))


class FeatureExtractor(nn.Module):
    """From what a network takes to what enters its head, (n, features) float32; the network is in evaluation mode.

    Of a map, which enters a convolution as in SqueezeNet, it is the mean over the picture.
    """

    def __init__(self, network: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.entered = torch.empty(0)
        self.close = head.register_forward_pre_hook(self._note).remove
        """Leaves the network as it was."""

    def forward(self, *inputs: Tensor) -> Tensor:
        self.network(*inputs)
        return self.entered

    def _note(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.entered = flat(inputs[0])


def extract_features(spec: ArmSpec, dataset: Dataset, compute: Compute, shorter: Iterable[Prefix] = ()) -> Features:
    """Extract what enters the head of a backbone in evaluation mode, for every image; `spec` trains the head alone.

    No label is looked at.

    Parameters
    ----------
    spec
        See `feature_spec`.
    dataset
        The images.
    compute
        The device and precision.
    shorter
        Prefixes whose cached activations spare computing what they hold; they change nothing.

    Raises
    ------
    ModelError
        The backbone or its weights cannot be used.
    StorageError
        The cache cannot be written or its disk is full.
    """
    network = prepare(spec, 0, replace(dataset, views=(), drawn=None), compute, shorter)
    installed = {"torch": torch.__version__, **versions("torchvision", "timm")}  # torch's own tells its builds apart
    how = [spec.backbone, compute.device.type, compute.precision, installed, BATCH]
    normalised = asdict(dataset.preprocessing)
    values = fingerprint(network.evaluation)
    key = key_of(start=network.inputs_key, preprocessing=normalised, values=values, how=how)
    trained = {parameter for parameter in network.model.parameters() if parameter.requires_grad}
    head = next(m for m in network.evaluation.modules() if trained & set(m.parameters(recurse=False)))
    rows = np.arange(len(dataset.source.ids))
    extractor = FeatureExtractor(network.evaluation, head)
    return Features(cached_features(extractor, network.inputs, rows, compute, key), key)


def cached_features(
    extractor: FeatureExtractor, inputs: Inputs, rows: Rows, compute: Compute, key: str
) -> NDArray[np.float32]:
    """(rows, features) mapped, from the cache under `key`, which stands for all that determines them, or made now.

    Parameters
    ----------
    extractor
        On the device.
    inputs
        What the network takes, for every image.
    rows
        Those of the inputs to describe, in order.
    compute
        The device and precision.
    key
        A content key, see `key_of`.

    Raises
    ------
    StorageError
        The cache cannot be written or its disk is full.
    """

    def make(first: int) -> Chunks:
        for found in _batches(extractor, inputs, rows, compute, first):
            yield (found,), {}

    with torch.inference_mode(), compute.autocast():
        width = extractor(*next(inputs.batches([rows[:1]]))).shape[1]
    (array,) = cached("features", key, len(rows), [Field((width,), "float32")], make).arrays
    return array


def _batches(
    extractor: FeatureExtractor, inputs: Inputs, rows: Rows, compute: Compute, first: int = 0
) -> Iterator[NDArray[np.float32]]:
    """(batch, features) for one batch after the other of `rows`, from the one at place `first` on."""
    batches = consecutive(rows[first:], BATCH)
    with stage("features", len(rows), "images", first) as advance:
        for batch, tensors in zip(batches, inputs.batches(batches), strict=True):
            with torch.inference_mode(), compute.autocast():
                found: NDArray[np.float32] = extractor(*tensors).cpu().numpy()
            yield found
            advance(len(batch))
