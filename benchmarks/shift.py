"""Arms under shift: trained on one set of faces, tested on another, and back, with averages of weights (WiSE-FT)."""

import argparse
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from thaw.arm import run_trial
from thaw.compute.device import choose_compute
from thaw.data.load import load_dataset
from thaw.data.shifted import load_shifted
from thaw.plan import Study, plan_study
from thaw.progress import Clock
from thaw.recipe import load_recipe
from thaw.run.shift import own_score
from thaw.scoring.shift import Shift, score_set

SIDE, TRAIN, VALIDATION, TEST = 96, 320, 160, 500
RECIPE = """
[data]
source = "{own}"
split = "split"
validation = "validation"
test = "test"
corruptions = {corruptions}
shifted = {{ {name} = "{other}" }}
[images]
size = {side}
resize = "squash"
[model]
backbone = "torchvision/mobilenet_v2"
weights = "thaw:mobilenet_v2"
[search]
learning_rates = [1e-4, 1e-3]
steps = 10
[train]
batch_size = 32
epochs = 5
schedule = "cosine"
precision = "fp32"
seeds = {seeds}
[arms.head]
train = "head"
head = "linear"
[arms.lp-ft]
train = "all"
probe = true
[arms.wise-25]
average = "lp-ft"
alpha = 0.25
[arms.wise-50]
average = "lp-ft"
[arms.wise-75]
average = "lp-ft"
alpha = 0.75
[arms.everything]
train = "all"
"""


def main() -> None:
    """Draw images of both sets, run two studies, print a table of arms by test set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="the folder with faces and celeba")
    parser.add_argument("--train-on", nargs="+", default=["faces", "celeba"], choices=["faces", "celeba"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--corruptions", action="store_true")
    arguments = parser.parse_args()
    with TemporaryDirectory() as root:
        os.environ.setdefault("THAW_CACHE", f"{root}/cache")
        folder, names = Path(root), ("faces", "celeba")
        for name in names:
            _draw(arguments.shared / name, folder / name)
        for own in arguments.train_on:
            _study(folder, own, names[names[0] == own], arguments)


def _draw(source: Path, target: Path) -> None:
    """Take as many images of a set, at random, for train, validation and test; the last are its images for others."""
    table = pa.concat_tables(_plain(pq.read_table(file)) for file in sorted(source.rglob("*.parquet")))
    drawn = np.random.default_rng(0).permutation(table.num_rows)[: TRAIN + VALIDATION + TEST]
    splits = ["train"] * TRAIN + ["validation"] * VALIDATION + ["test"] * TEST
    target.mkdir()
    whole = table.take(drawn).append_column("split", pa.array(splits))
    pq.write_table(whole, target / "all.parquet")
    pq.write_table(whole.slice(TRAIN + VALIDATION).drop_columns(["split"]), target / "test.parquet")


def _plain(table: pa.Table) -> pa.Table:
    """The bytes of the images, and their labels as numbers: 0 is female, 1 male in both sets."""
    images = table["image"].combine_chunks()
    content = images.field("bytes") if pa.types.is_struct(images.type) else images
    return pa.table({"image": content, "label": table["label"].cast(pa.int64())})


def _study(folder: Path, own: str, other: str, arguments: argparse.Namespace) -> None:
    """The trials of a study and their scores; no audit, gallery or report."""
    recipe_file = folder / f"{own}.toml"
    text = RECIPE.format(
        own=folder / own / "all.parquet",
        other=folder / other / "test.parquet",
        name=other,
        side=SIDE,
        seeds=arguments.seeds,
        corruptions=str(arguments.corruptions).lower(),
    )
    recipe_file.write_text(text)
    recipe, compute = load_recipe(str(recipe_file)), choose_compute("cpu", "fp32")
    dataset = load_dataset(recipe, compute, Clock())
    study = Study(recipe, dataset, compute, folder / f"run-{own}", load_shifted(recipe, dataset))
    trials = [run_trial(study, trial) for trial in plan_study(study).trials]
    labels, classes = dataset.source.labels[dataset.splits.test], dataset.source.classes
    of_arm = {arm: [one for one in trials if one.record.arm == arm] for arm in recipe.arms}
    at_home = {arm: own_score("accuracy", labels, [one.logits for one in of], None) for arm, of in of_arm.items()}
    found = {}
    for one in study.shifted:
        shift = Shift(one.kind, one.name, classes, one.labels, None, "accuracy", {}, None)
        logits = {arm: [trial.shifted[one.name] for trial in of] for arm, of in of_arm.items()}
        found[one.name] = score_set(shift, logits, at_home)
    print(f"\n{own}: {TRAIN} to train on, {TEST} to test, {SIDE} px, {len(arguments.seeds)} seed(s); accuracy\n")
    print("| arm | " + " | ".join((own, *found)) + " | change | 95% interval | seconds |")
    print("|---|" + "---|" * (4 + len(found)))
    for arm, home in at_home.items():
        sets = [one.arms[arm] for one in found.values()]
        low, high = sets[0].change_interval or (float("nan"), float("nan"))
        cells = " | ".join(f"{value:.3f}" for value in (home.value, *(one.value for one in sets)))
        spent = sum(one.record.seconds.total for one in of_arm[arm])
        print(f"| {arm} | {cells} | {sets[0].change:+.3f} | {low:+.3f} to {high:+.3f} | {spent:.0f} |")
    for pair in found[other].comparisons:
        if "lp-ft" in pair.arms:
            low, high = pair.interval
            print(f"on {other}: {pair.arms[0]} minus {pair.arms[1]} {pair.difference:+.3f} ({low:+.3f} to {high:+.3f})")


if __name__ == "__main__":
    main()
