"""How well distances in features tell images unlike those of training, with the false alarms on others like them.

    S=../shared
    .venv/bin/python benchmarks/unlike.py thaw:emoji-people $S/faces $S/celeba $S/trash $S/flowers

Each source in turn is what is trained on, the others are something else. Features are MobileNetV2's, pretrained, at 96
pixels; groups stay whole. AUROC, the fraction of the other images that are flagged, and that of test images, with the
threshold for 5% false alarms on validation images; means over the other sources, with the least AUROC among them.
"""

import argparse
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score

from thaw.compute.device import choose_compute
from thaw.data.load import load_dataset
from thaw.progress import Clock
from thaw.recipe import load_recipe
from thaw.scoring.conformal import floor_of
from thaw.scoring.unlike import distances, fit_subspace
from thaw.training.features import extract_features
from thaw.training.specs import feature_spec

Features = NDArray[np.float32]
Distance = Callable[[Features], NDArray[np.floating]]


def main() -> None:
    """Print a table for each source."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+")
    parser.add_argument("--images", type=int, default=300, help="of validation, test and everything else, each")
    parser.add_argument("--train", type=int, default=500, help="training images")
    arguments = parser.parse_args()
    read = {source: parts(source, arguments.images, arguments.train) for source in arguments.sources}
    for source, (train, labels, validation, test) in read.items():
        others = {name: of[3] for name, of in read.items() if name != source}
        print(f"\ntrained on {source}: {len(train)} images; something else: {', '.join(others)}")
        print(f"{'distance':28} {'AUROC':>7} {'least':>7} {'flagged':>8} {'false alarms':>13}")
        for name, distance in all_distances(train, labels).items():
            print(f"{name:28} {row(distance, validation, test, list(others.values()))}", flush=True)


def parts(source: str, images: int, train: int) -> tuple[Features, NDArray[np.int64], Features, Features]:
    """Return the features and labels of training images, and the features of validation and test images."""
    settings = ["images.size=96", f"data.validation={images}", f"data.test={images}"]
    if not source.startswith("thaw:"):
        settings.append("data.group=")
    recipe = load_recipe("emoji-people", None if source.startswith("thaw:") else source, tuple(settings))
    compute = choose_compute("auto", "fp32")
    dataset = load_dataset(recipe, compute, Clock())
    features, splits = extract_features(feature_spec(recipe), dataset, compute).values, dataset.splits
    rows = np.random.default_rng(0).permutation(splits.train)[:train]
    return features[rows], dataset.source.labels[rows], features[splits.validation], features[splits.test]


def row(distance: Distance, validation: Features, test: Features, others: list[Features]) -> str:
    """Measure one distance."""
    like = distance(test)
    nearest = floor_of(-distance(validation).astype(np.float64), 0.95)
    assert nearest is not None
    far = [distance(of) for of in others]
    areas = [roc_auc_score(np.repeat([0, 1], [len(like), len(of)]), np.concatenate([like, of])) for of in far]
    flagged = [float((of > -nearest).mean()) for of in far]
    return f"{np.mean(areas):7.4f} {min(areas):7.4f} {np.mean(flagged):8.1%} {(like > -nearest).mean():13.1%}"


def all_distances(train: Features, labels: NDArray[np.int64]) -> dict[str, Distance]:
    """Return each distance by name, fitted to the training images."""
    subspace, unit = fit_subspace(train), scaled(train)
    means = np.stack([train[labels == code].mean(0) for code in np.unique(labels)])
    within = train - means[np.unique(labels, return_inverse=True)[1]]
    shared = LedoitWolf(assume_centered=True).fit(within).precision_
    whole, centre = LedoitWolf().fit(train).precision_, train.mean(0)

    def mahalanobis(features: Features) -> NDArray[np.floating]:
        return np.min([quadratic(features - mean, shared) for mean in means], 0)

    def cosine(neighbour: int) -> Distance:
        return lambda features: 1 - np.sort(scaled(features) @ unit.T, 1)[:, -neighbour]

    return {
        "subspace of 64, length 1": lambda features: distances(subspace, features),
        "cosine, nearest": cosine(1),
        "cosine, 5th nearest": cosine(5),
        "Mahalanobis": mahalanobis,
        "Mahalanobis, relative": lambda features: mahalanobis(features) - quadratic(features - centre, whole),
    }


def scaled(features: Features) -> Features:
    """Features of length 1."""
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def quadratic(away: Features, precision: NDArray[np.floating]) -> NDArray[np.floating]:
    """The squared Mahalanobis length of each row."""
    return np.einsum("nd,nd->n", away @ precision, away)


if __name__ == "__main__":
    main()
