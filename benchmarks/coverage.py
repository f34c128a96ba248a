"""Coverage of prediction sets over ten splits, beside what their numbers of images leave to chance.

    .venv/bin/python benchmarks/coverage.py ../shared/faces ../shared/trash ../shared/flowers

One set of features of each source, from pretrained MobileNetV2 at 96 pixels; for each split a logistic regression on
the training images, floors on the validation images, coverage on the test images. Of n validation images of a class and
m test images, the coverage is beta-binomial (Vovk, Conditional validity of inductive conformal predictors, 2012):
`within` counts the splits whose coverage lies in its central 95%, and `expected` is its mean.
"""

import argparse
import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from thaw.compute.device import choose_compute
from thaw.data.load import load_dataset
from thaw.progress import Clock
from thaw.recipe import load_recipe
from thaw.scoring.conformal import measure_sets
from thaw.scoring.metrics import log_probabilities
from thaw.training.features import extract_features
from thaw.training.logistic import as_layer, pose, solve
from thaw.training.specs import feature_spec

PENALTY = 0.01
TRAIN, VALIDATION = 0.4, 0.3
"""Fractions of the images; the rest are test images."""


def main() -> None:
    """Print a table for each source."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+")
    parser.add_argument("--splits", type=int, default=10)
    parser.add_argument("--images", type=int, default=1500, help="of each source, drawn once")
    parser.add_argument("--coverage", type=float, default=0.9)
    arguments = parser.parse_args()
    for source in arguments.sources:
        recipe = load_recipe("emoji-people", source, ("images.size=96", "data.group="))
        compute = choose_compute("auto", "fp32")
        dataset = load_dataset(recipe, compute, Clock())
        features = extract_features(feature_spec(recipe), dataset, compute).values
        rows = np.random.default_rng(0).permutation(len(features))[: arguments.images]
        labels, classes = dataset.source.labels[rows], dataset.source.classes
        found = [draw(features[rows], labels, arguments.coverage, seed) for seed in range(arguments.splits)]
        print(f"\n{source}: {len(rows)} images, accuracy {np.mean([it[2] for it in found]):.3f}")
        print(f"mean size {np.mean([it[3] for it in found]):.2f}, by class in {sum(it[4] for it in found)} splits")
        print(f"{'class':20} {'validation':>10} {'test':>6} {'coverage':>9} {'expected':>9} {'within':>7}")
        for code, name in enumerate([*classes, "all"]):
            table(name, [(it[0][code], it[1][code]) for it in found], arguments.coverage)


def draw(
    features: NDArray[np.float32], labels: NDArray[np.int64], coverage: float, seed: int
) -> tuple[list[float], list[tuple[int, int]], float, float, bool]:
    """Return the coverage of each class and of all, their validation and test images, accuracy, size, and kind."""
    order = np.random.default_rng([seed]).permutation(len(labels))
    train, validation, test = np.split(order, np.cumsum([round(TRAIN * len(order)), round(VALIDATION * len(order))]))
    problem = pose(features[train], labels[train], np.ones(len(train)), torch.device("cpu"))
    weight, bias = (part.numpy() for part in as_layer(problem, solve(problem, PENALTY, None, 1e-4)))
    probabilities = np.exp(log_probabilities((features @ weight.T + bias).astype(np.float32)))
    held = labels[validation], probabilities[validation]
    sets = measure_sets(labels[test], probabilities[test], held, coverage)
    assert sets.covered is not None
    assert sets.size is not None
    counts = [(int((held[0] == code).sum()), it.images) for code, it in enumerate(sets.classes)]
    covered = [it.covered if it.covered is not None else math.nan for it in sets.classes]
    accuracy = float((probabilities[test].argmax(1) == labels[test]).mean())
    return [*covered, sets.covered], [*counts, (len(validation), len(test))], accuracy, sets.size, sets.by_class


def table(name: str, found: list[tuple[float, tuple[int, int]]], coverage: float) -> None:
    """Print the row of a class."""
    within, expected = 0, []
    for covered, (validation, test) in found:
        wanted = math.ceil((validation + 1) * coverage - 1e-9)
        chance = stats.betabinom(test, wanted, validation + 1 - wanted)
        expected.append(wanted / (validation + 1))
        within += bool(chance.ppf(0.025) <= round(covered * test) <= chance.ppf(0.975))
    validation, test = np.mean([sizes for _, sizes in found], axis=0)
    covered = np.mean([one for one, _ in found])
    share = f"{within}/{len(found)}"
    print(f"{name[:20]:20} {validation:10.0f} {test:6.0f} {covered:9.3f} {np.mean(expected):9.3f} {share:>7}")


if __name__ == "__main__":
    main()
