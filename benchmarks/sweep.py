"""How much to thaw, and with how many labels: accuracy by depth and by labels, and what the shares of the labels cost.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/sweep.py --out runs/sweep

Each set is one study by the recipe `photos` with `[sweep]` depths and labels: its training images are drawn in the
proportions of its classes, and at most 2,000 others are tested on. Stop it, and go on by the same command; what is
finished in --out is printed and not computed again. --only-print prints what is there.

Seconds are those of search and training of all arms and seeds, on all training images and on the smaller shares
together; decoding, activations, audit and report, which a study needs once in either case, are in neither.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from quality import write_images
from quality_tables import print_header, print_row

from thaw.run.metrics import FILE, Metrics, read_metrics

SETS = ("faces", "celeba", "trash", "flowers")


def main() -> None:
    """Run the studies that are missing, one after another, and print the tables of those that are there."""
    given = parse()
    for name in () if given.only_print else given.sets:
        if not (given.out / name / "run" / FILE).exists():
            run_study(name, given)
    found = {name: given.out / name / "run" for name in given.sets if (given.out / name / "run" / FILE).exists()}
    print_tables({name: read_metrics(run) for name, run in found.items()})


def run_study(name: str, given: argparse.Namespace) -> None:
    """Run or go on with the study of a set."""
    folder = given.out / name
    if not (folder / "images").exists():
        write_images(f"{name}-{given.images}", 0, folder / "images.part", given)
        (folder / "images.part").rename(folder / "images")
    settings = [f"images.size={given.size}", f"train.epochs={given.epochs}", f"train.seeds={given.seeds}"]
    settings += [f"sweep.depths={given.depths}", f"sweep.labels={given.labels}", *given.thaw_set]
    command = [sys.executable, "-m", "thaw", "study", str(folder / "images"), "--recipe", "photos"]
    command += ["--out", str(folder / "run"), *(word for setting in settings for word in ("--set", setting))]
    subprocess.run(command, env={"THAW_CACHE": str(given.out / "cache"), **os.environ}, check=True)


def print_tables(found: dict[str, Metrics]) -> None:
    """Print accuracy by depth, accuracy by labels, and seconds."""
    print_header("Test accuracy by depth", ["arm", "thawed, %", "accuracy, %", "95% interval"])
    for name, metrics in found.items():
        nested = {arm: it.thawed.arithmetic for arm, it in metrics.arms.items() if it.thawed}
        for arm in sorted(nested, key=lambda arm: nested[arm]):
            it = metrics.arms[arm]
            mean, (low, high) = it.over_seeds.accuracy.mean, it.intervals.accuracy
            print_row(f"{name} | {arm}", [f"{100 * nested[arm]:.1f}", f"{100 * mean:.1f}", spanned(low, high)])
    print_header("Test accuracy in percent by images trained on", ["arm", "images: accuracy", "last gain", "95%"])
    for name, metrics in found.items():
        for arm, curve in metrics.labels.arms.items() if metrics.labels else ():
            told = ", ".join(f"{point.images:,}: {100 * point.score:.1f}" for point in curve.points)
            print_row(f"{name} | {arm}", [told, f"{100 * curve.gain:.1f}", spanned(*curve.gain_interval)])
    print_header("Seconds of search and training", ["all images", "smaller shares", "ratio"])
    for name, metrics in found.items():
        if metrics.labels:
            seeds = len(next(iter(metrics.arms.values())).trials)
            spent = [[seeds * point.seconds for point in curve.points] for curve in metrics.labels.arms.values()]
            whole, shares = sum(of[-1] for of in spent), sum(sum(of[:-1]) for of in spent)
            print_row(name, [f"{whole:.0f}", f"{shares:.0f}", f"{shares / whole:.2f}"])


def spanned(low: float, high: float) -> str:
    """An interval in percent."""
    return f"{100 * low:.1f} to {100 * high:.1f}"


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/sweep"), help="a folder for each set (%(default)s)")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--images", type=int, default=1280, help="to train and validate on (%(default)s)")
    parser.add_argument("--size", type=int, default=96, help="of the images, in pixels (%(default)s)")
    parser.add_argument("--epochs", type=int, default=8, help="of every arm (%(default)s)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of training (%(default)s)")
    parser.add_argument("--depths", type=int, default=6, help="arms from head to everything (%(default)s)")
    parser.add_argument(
        "--labels", nargs="+", type=float, default=[0.1, 0.25, 0.5, 1.0], help="fractions (%(default)s)"
    )
    parser.add_argument("--thaw-set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the recipe")
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="where the sets lie (%(default)s)")
    parser.add_argument("--only-print", action="store_true", help="run nothing")
    return parser.parse_args()


if __name__ == "__main__":
    main()
