"""A trained backbone as a scikit-learn classifier: `fit`, `predict`, `predict_proba`, in pipelines and validation."""

import hashlib
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, check_is_fitted, column_or_1d, validate_data
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from thaw.arm import train_trial
from thaw.bundle.model import Bundle
from thaw.bundle.save import bundle_config, save_bundle
from thaw.cache.arrays import key_of
from thaw.compute.batches import make_inputs
from thaw.compute.device import choose_compute
from thaw.data.dataset import Dataset
from thaw.data.load import preprocessing_of
from thaw.data.source import Source
from thaw.data.splits import Splits
from thaw.data.views import add_views
from thaw.errors import DataError, RecipeError
from thaw.images.any import AnyImage, square
from thaw.images.decode import BadImageError
from thaw.images.depth import Depth, choose_depth, scale_levels, values_of
from thaw.images.header import HEADER
from thaw.images.preprocessing import Preprocessing, sides
from thaw.nets.adapters import merge_adapters
from thaw.plan import Trial
from thaw.progress import stage
from thaw.recipe import Settings, validate
from thaw.training.prepare import check_batch
from thaw.training.specs import ArmSpec, resolve_arm

ARM = "classifier"
"""The name of its one arm."""


class Classifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn is untyped
    """An image classifier: a pretrained backbone, part of it trained on the images that `fit` is given.

    It does what one trial of a study does: it finds a learning rate on images held out for it, then trains on all.
    Images are paths, encoded bytes, PIL images, arrays uint8 (height, width, 3) or tensors uint8 (3, height, width), of
    any sizes, in a sequence, a pandas Series or a DataFrame of one column, a column of a `datasets.Dataset`, or a torch
    Dataset of (image, label); or one array or tensor (n, height, width, 3), (n, 3, height, width), or of grey images
    (n, height, width), with or without a dimension of 1 for the channel. Arrays of other numbers become uint8 by one
    scale for all, which `fit` chooses as a recipe's `images.depth` does: 1 is white where fractions reach up to it,
    4095 where 12 bits do. Numbers
    (n, pixels), as scikit-learn's own `digits` and `olivetti_faces` bring them, are taken for square grey images, row
    by row, from the least value, black, to the highest, white, that `fit` saw.

    Parameters
    ----------
    backbone
        A torchvision or timm network by name.
    weights
        `random`, a name of the library's pretrained weights, a `.safetensors` file, or `thaw:mobilenet_v2`.
    train
        What trains: `all`, `head`, `last-stage`, `norm`, `bias`, `lora`, or names of modules.
    epochs
        Passes over the training images.
    learning_rates
        The learning rates to try; the best validation accuracy wins.
    batch_size
        Images of one step.
    size
        Pixels of each side, or height and width, of what the network sees; the backbone's own unless given.
    validation
        The fraction of the images, below 1, that the learning rates are compared on.
    device
        `auto`, `cpu`, `cuda` or `mps`.
    precision
        `auto`, `fp32` or `bf16`.
    settings
        Any other keys of a recipe, such as `{"augment.policy": "flip"}`; those of its arm begin with
        `arms.classifier.`. Views are cut from the images as the network sees them.
    random_state
        A seed, a numpy RandomState, or None.

    Attributes
    ----------
    classes_
        (classes,) the labels, sorted.
    learning_rate_
        The learning rate that won; None where the head is fitted.
    search_
        For each learning rate tried its steps, validation accuracy and loss.
    head_
        How the head was fitted, with `settings={"arms.classifier.head": "linear"}`: the `value` that won, and the
        `attempts`; None where it is trained.
    epochs_
        For each epoch its loss and accuracy.
    bundle_
        The trained model, ready to use.
    range_
        The numbers that became black and white; None where all images were files or uint8.
    """

    def __init__(
        self,
        backbone: str = "torchvision/mobilenet_v2",
        weights: str = "thaw:mobilenet_v2",
        train: str | Sequence[str] = "head",
        *,
        epochs: int = 8,
        learning_rates: Sequence[float] = (1e-4, 1e-3, 1e-2),
        batch_size: int = 64,
        size: int | tuple[int, int] | None = None,
        validation: float = 0.15,
        device: str = "auto",
        precision: str = "auto",
        settings: Mapping[str, object] | None = None,
        random_state: Any = 0,
    ) -> None:
        self.backbone = backbone
        self.weights = weights
        self.train = train
        self.epochs = epochs
        self.learning_rates = learning_rates
        self.batch_size = batch_size
        self.size = size
        self.validation = validation
        self.device = device
        self.precision = precision
        self.settings = settings
        self.random_state = random_state

    def fit(self, X: Any, y: ArrayLike | None = None) -> Self:
        """Search and train.

        Parameters
        ----------
        X
            n images.
        y
            (n,) their labels, of any type; may be left out where X is a torch Dataset of (image, label).

        Returns
        -------
        Self
            The classifier itself, trained.

        Raises
        ------
        ValueError
            The labels are not classes: a label is missing, all are the same, or no class has two images; or
            `validation` or `random_state` is out of range.
        ThawError
            An image or a setting is wrong.
        """
        if y is None and isinstance(X, TorchDataset):
            X, y = _pairs_of(X)
        if y is None:
            raise ValueError("Classifier requires y to be passed, but the target y is None.")
        seed = _seed(self.random_state)
        if seed < 0:
            raise ValueError(f"random_state={seed} is negative; give 0 or more, or None.")
        pictures, labels = self._fit_pictures(X, y)
        if any(map(_is_missing, labels.tolist())):
            raise ValueError("y has labels that are missing or empty; leave those images out or give them a class.")
        if not 0 <= self.validation < 1:
            raise ValueError(f"validation={self.validation!r} is not a fraction of images; give one from 0 to below 1.")
        check_classification_targets(labels)
        self.classes_, codes = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"A classifier needs two classes or more; y has one class, {self.classes_[0]!r}.")
        if len(labels) == len(self.classes_):
            raise ValueError("A classifier needs two images or more of some class, one of them to choose its rate on.")
        spec, settings = self._settings()
        compute = choose_compute(settings.train.device, settings.train.precision)
        preprocessing = preprocessing_of(settings)
        check_batch(spec, preprocessing.size)
        pixels = _pixels(pictures, preprocessing, settings.images.decode)
        splits = _hold_out(codes, self.validation, seed)
        dataset = _dataset(pixels, codes, self.classes_, preprocessing, splits, compute.device)
        dataset = add_views(dataset, settings.augment, lambda row: Image.fromarray(pixels[row]))
        trained = train_trial(Trial(spec=spec, seed=seed, saved=False, prefixes=[]), dataset, compute)
        search = trained.search
        self.learning_rate_ = search.learning_rate if search else None
        self.search_ = [attempt.model_dump() for attempt in search.attempts] if search else []
        self.head_ = trained.fit.model_dump() if trained.fit else None
        self.epochs_ = [epoch.model_dump() for epoch in trained.training.epochs]
        model = merge_adapters(trained.setup.network.model).cpu().eval().requires_grad_(False)
        config = bundle_config(spec, dataset, settings)
        self.bundle_ = Bundle(
            model,
            dataset.source.classes,
            preprocessing,
            settings.images.decode,
            None,
            config,
            trained.setup.compute,
            settings.augment.test_views,
        )
        return self

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Compute the probability of each class for each image.

        Parameters
        ----------
        X
            n images, in any form that `fit` takes.

        Returns
        -------
        array of float64, shape (n, classes)
            Probabilities in the order of `classes_`; each row sums to 1.

        Raises
        ------
        NotFittedError
            `fit` was not called.
        ThawError
            An image cannot be used; the message names the first.
        """
        check_is_fitted(self)
        images = _images_in(X)
        if images is None:
            if not hasattr(self, "n_features_in_"):
                raise ValueError("X is a table of numbers, and fit saw images; give images.")
            images = self._as_pictures(validate_data(self, X, dtype=np.float64, reset=False))
        return self.bundle_.predict_proba([_eight_bits(image, self.range_) for image in images])

    def predict(self, X: Any) -> NDArray[Any]:
        """Predict the most probable class of each image.

        Parameters
        ----------
        X
            n images, in any form that `fit` takes.

        Returns
        -------
        array of labels, shape (n,)
            Labels, of the type of `y`.

        Raises
        ------
        NotFittedError
            `fit` was not called.
        ThawError
            An image cannot be used; the message names the first.
        """
        probabilities = self.predict_proba(X)
        predicted: NDArray[Any] = self.classes_[probabilities.argmax(1)]
        return predicted

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write what was trained as a bundle, for `thaw.load`, `thaw predict` and `thaw export`.

        Parameters
        ----------
        folder
            The bundle's folder, created where it is missing.

        Raises
        ------
        NotFittedError
            `fit` was not called.
        StorageError
            The folder cannot be written.
        """
        check_is_fitted(self)
        save_bundle(Path(folder), self.bundle_.model, self.bundle_.config)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = False
        tags.input_tags.string = True
        return tags

    def _fit_pictures(self, X: Any, y: ArrayLike) -> tuple[list[AnyImage], NDArray[Any]]:
        images = _images_in(X)
        if images is not None:
            labels = column_or_1d(y, warn=True)
            check_consistent_length(images, labels)
            if hasattr(self, "n_features_in_"):  # of another fit
                del self.n_features_in_
            self.range_: Depth | None = choose_depth(
                values_of(np.asarray(image)) for image in images if _is_numbers(image)
            )
            return [_eight_bits(image, self.range_) for image in images], labels
        rows, labels = validate_data(self, X, y, dtype=np.float64)
        self.range_ = (float(rows.min()), float(rows.max()))
        return self._as_pictures(rows), labels

    def _as_pictures(self, rows: NDArray[np.float64]) -> list[AnyImage]:
        """Rows of numbers (n, pixels) as square grey images, black where the last row of pixels is not full."""
        low, high = self.range_ or (0.0, 1.0)
        side = math.ceil(math.sqrt(rows.shape[1]))
        grey = np.zeros((len(rows), side * side), np.uint8)
        grey[:, : rows.shape[1]] = ((rows - low) * (255 / ((high - low) or 1))).clip(0, 255).round()
        return list(grey.reshape(-1, side, side))

    def _settings(self) -> tuple[ArmSpec, Settings]:
        """The arm that is trained, and the settings that it comes from."""
        size = list(self.size) if isinstance(self.size, tuple) else self.size
        values: dict[str, Any] = {
            "images": {} if size is None else {"size": size},
            "model": {"backbone": self.backbone, "weights": str(self.weights)},
            "search": {"learning_rates": [float(rate) for rate in self.learning_rates]},
            "train": {
                "epochs": self.epochs,
                "batch_size": self.batch_size,
                "device": self.device,
                "precision": self.precision,
            },
            "arms": {ARM: {"train": list(self.train) if isinstance(self.train, tuple) else self.train}},
        }
        for key, value in (self.settings or {}).items():
            table = values
            *path, last = key.split(".")
            for name in path:
                table = table.setdefault(name, {})
                if not isinstance(table, dict):
                    raise RecipeError(f"Classifier: {key!r} goes below {name!r}, which is not a table; leave it out.")
            if isinstance(value, Mapping) and isinstance(table.get(last), dict):
                table[last] |= value
            else:
                table[last] = value
        settings = validate(_plain(values), "Classifier", Settings)
        if list(settings.arms) != [ARM]:
            raise RecipeError(f"Classifier: its one arm is called {ARM!r}; leave the others out.")
        return resolve_arm(ARM, settings.arms[ARM], settings), settings


def _pairs_of(dataset: TorchDataset[Any]) -> tuple[list[Any], list[Any]]:
    """Return the images and the labels of a torch Dataset of (image, label)."""
    pairs = [dataset[row] for row in range(len(dataset))]  # type: ignore[arg-type]
    if not all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in pairs):
        raise ValueError("X is a torch Dataset of something else than (image, label); give lists of images and labels.")
    return [image for image, _ in pairs], [label.item() if isinstance(label, Tensor) else label for _, label in pairs]


def _channels_last(X: Any) -> Any:
    """Return n images in one array or tensor of four dimensions as (n, height, width, channels).

    Raises ValueError where it can be read in two ways, or in none.
    """
    first, last = X.shape[1] in (1, 3, 4), X.shape[3] in (1, 3, 4)
    if first == last:
        why = "channels may come first or last" if first else "no dimension can be 1, 3 or 4 channels"
        raise ValueError(f"X of shape {tuple(X.shape)} is not clear: {why}; give (n, height, width, channels).")
    if last:
        return X
    return X.permute(0, 2, 3, 1) if isinstance(X, Tensor) else X.transpose(0, 2, 3, 1)


def _images_in(X: Any) -> list[Any] | None:
    """Return the images of `X`, arrays as (height, width) or (height, width, 3); None for a table of numbers."""
    if isinstance(X, TorchDataset):
        return _pairs_of(X)[0]
    if type(X).__name__ in ("DataFrame", "Series"):
        X = X.to_numpy()
    if isinstance(X, np.ndarray | Tensor):
        if X.ndim == 3 and X.shape[2] in (3, 4):
            raise ValueError(f"X of shape {tuple(X.shape)} is one image; give a list of images, such as [image].")
        if X.ndim == 3:
            return list(X)
        if X.ndim == 4:
            pixels = np.asarray(_channels_last(X.detach().cpu() if isinstance(X, Tensor) else X))
            return list(pixels[..., 0] if pixels.shape[3] == 1 else pixels)
        if isinstance(X, Tensor) or X.dtype.kind not in "OUT":
            return None
        if X.ndim == 2 and X.shape[1] > 1 and any(_is_image(value) for value in X[:1].flat):
            raise ValueError(f"X has {X.shape[1]} columns; give the one with the images alone, such as X['image'].")
        X = X[:, 0] if X.ndim == 2 and X.shape[1] == 1 else X
    elif not isinstance(X, Sequence) or isinstance(X, str | bytes):
        return None
    images = list(X)
    return images if images and _is_image(images[0]) else None


def _is_image(value: Any) -> bool:
    if isinstance(value, np.ndarray | Tensor):
        return value.ndim > 1
    return isinstance(value, str | os.PathLike | bytes | Image.Image)


def _is_numbers(image: Any) -> bool:
    """Whether an image is an array of numbers that are not uint8."""
    if isinstance(image, Tensor):
        return image.dtype != torch.uint8
    return isinstance(image, np.ndarray) and image.dtype != np.uint8 and image.dtype.kind in "biuf"


def _eight_bits(image: Any, black_white: Depth | None) -> AnyImage:
    """Return an image as uint8 where it is an array of other numbers, without a channel dimension of 1."""
    channel = 0 if isinstance(image, Tensor) else 2
    if isinstance(image, np.ndarray | Tensor) and image.ndim == 3 and image.shape[channel] == 1:
        image = image.squeeze(channel)
    if black_white is None or not _is_numbers(image):
        return image  # type: ignore[no-any-return]
    levels = scale_levels(image.detach().cpu().numpy() if isinstance(image, Tensor) else image, black_white)
    return torch.from_numpy(levels) if isinstance(image, Tensor) else levels


def _is_missing(label: Any) -> bool:
    """Whether it is nothing, empty or, being unlike itself, no number; pandas' NA does not compare."""
    return label is None or type(label).__name__ == "NAType" or bool(label == "" or label != label)


def _plain(value: Any) -> Any:
    """Numbers of numpy, such as a grid of them holds, as Python's own."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return value.item() if isinstance(value, np.generic) else value


def _seed(random_state: Any) -> int:
    generator = check_random_state(random_state)
    return int(random_state if isinstance(random_state, int | np.integer) else generator.randint(2**31 - 1))


def _pixels(pictures: list[AnyImage], preprocessing: Preprocessing, decode: str) -> NDArray[np.uint8]:
    """(n, height, width, 3), mapped from a file that is gone when nobody uses it any more."""
    with tempfile.TemporaryFile() as file:
        pixels = np.memmap(file, np.uint8, "w+", shape=(len(pictures), *sides(preprocessing.size), 3))

    def make(row: int) -> None:
        try:
            pixels[row] = square(pictures[row], preprocessing, decode)
        except BadImageError as error:
            raise DataError(f"image {row} {error}; leave it out or fix it.") from error

    with ThreadPoolExecutor(os.cpu_count()) as pool, stage("decoding", len(pictures), "images") as advance:
        for _ in pool.map(make, range(len(pictures))):
            advance(1)
    return pixels


def _dataset(
    pixels: NDArray[np.uint8],
    labels: NDArray[np.int64],
    classes: NDArray[Any],
    preprocessing: Preprocessing,
    splits: Splits,
    device: torch.device,
) -> Dataset:
    count = len(pixels)
    digests = tuple(hashlib.blake2b(row.tobytes(), digest_size=16).hexdigest() for row in pixels)
    source = Source(
        classes=tuple(str(name) for name in classes),
        ids=np.array([str(row) for row in range(count)]),
        labels=labels.astype(np.int64),
        splits=np.array(["all"] * count),
        digests=digests,
        content=pa.chunked_array([pa.nulls(count, pa.binary())]),
        paths=(None,) * count,
        rows=np.arange(count),
        columns=pa.table({}),
        skipped=(),
    )
    key = key_of(digests=digests, preprocessing=asdict(preprocessing))
    inputs, headers = make_inputs((pixels,), device), np.zeros(count, HEADER)
    return Dataset(source, splits, inputs, headers, key, preprocessing)


def _hold_out(labels: NDArray[np.int64], fraction: float, seed: int) -> Splits:
    """Hold out that fraction of each class to validate on: one image at least, never all of a class."""
    random = np.random.default_rng(seed)
    members = [random.permutation(np.flatnonzero(labels == code)) for code in range(labels.max() + 1)]
    counts = [min(round(fraction * len(rows)), len(rows) - 1) for rows in members]
    if not any(counts):
        largest = max(range(len(members)), key=lambda code: len(members[code]))
        counts[largest] = min(1, len(members[largest]) - 1)
    held = np.sort(np.concatenate([rows[:number] for rows, number in zip(members, counts, strict=True)]))
    rest = np.setdiff1d(np.arange(len(labels)), held)
    return Splits(rest, held, np.empty(0, np.int64), {"validation": f"{len(held):,} images, stratified by label"})
