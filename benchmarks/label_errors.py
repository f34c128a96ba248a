"""Label errors that are found: the fraction of planted ones among the most suspect tenth of the training images.

    .venv/bin/python benchmarks/label_errors.py
    .venv/bin/python benchmarks/label_errors.py ../shared/faces --recipe celeba-hq-gender --set model.weights=W

5% of the labels (or `--planted`) are changed at random, anew for each trial. Chance would find a tenth of them.
"""

import argparse
import time

import numpy as np

from thaw.audit.label_errors import find_label_errors
from thaw.compute.device import choose_compute
from thaw.data.load import load_dataset
from thaw.data.splits import group_codes
from thaw.progress import Clock
from thaw.recipe import load_recipe
from thaw.training.features import extract_features
from thaw.training.specs import feature_spec

PLANTED, LOOKED = 0.05, 0.1


def main() -> None:
    """Plant and look, once for each trial."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="?")
    parser.add_argument("--recipe", default="emoji-people")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--planted", type=float, default=PLANTED, help="the fraction of labels that are changed")
    arguments = parser.parse_args()
    recipe = load_recipe(arguments.recipe, arguments.source, tuple(arguments.settings))
    compute = choose_compute(recipe.train.device, recipe.train.precision)
    dataset = load_dataset(recipe, compute, Clock())
    features, groups = (
        extract_features(feature_spec(recipe), dataset, compute).values,
        group_codes(dataset.source, recipe.data),
    )
    splits, clean = dataset.splits, dataset.source.labels
    pool, shares = np.union1d(splits.train, splits.validation), []
    for trial in range(arguments.trials):
        random, begun = np.random.default_rng(trial), time.perf_counter()
        planted = random.choice(splits.train, round(arguments.planted * len(splits.train)), replace=False)
        labels, classes = clean.copy(), len(dataset.source.classes)
        labels[planted] = (clean[planted] + random.integers(1, classes, len(planted))) % classes
        found = find_label_errors(features, labels, groups, pool, splits.test)
        ranked = found.rows[np.isin(found.rows, splits.train)]
        top = ranked[: round(LOOKED * len(ranked))]
        shares.append(float(np.isin(planted, top).mean()))
        seen = np.isin(planted, found.rows[found.errors]).mean()
        inside = found.errors & np.isin(found.rows, splits.train)
        counted, chance = found.rows[inside], found.chance[inside]
        print(
            f"trial {trial}: the top {LOOKED:.0%} of {len(ranked):,} images hold {shares[-1]:.1%} of "
            f"{len(planted)} planted errors ({shares[-1] / LOOKED:.1f} times chance); "
            f"{found.errors.sum():,} labels count as errors, {seen:.1%} of the planted ones; "
            f"of those in train {np.isin(counted, planted).mean():.2f} are planted, expected {chance.mean():.2f}; "
            f"{time.perf_counter() - begun:.1f} s"
        )
    print(f"mean {np.mean(shares):.1%}, least {min(shares):.1%}")


if __name__ == "__main__":
    main()
