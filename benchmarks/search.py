"""What the learning-rate search costs: test accuracy at the rate that it chose, and at the best rate of a fine grid.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/search.py --out runs/search

The images are those of quality.py, which says how to install ELPV, by default in two draws; each draw has a split and a
training seed of its own. The grid has two rates for each power of ten from 1e-5 to 1e-1, each trained in full. What is
there in --out is not computed again.

The loss is what the best rate of the grid, by the mean over draws, is ahead of the chosen rates. That best rate is
known by the same test images, so that even a perfect search loses a little by it. In the last column the best rate of
each draw is the best of the other draws, which no longer flatters it.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from quality import add_settings, keep, run_thaw, write_images
from quality_tables import accuracy, print_header, print_row

ARMS = ("head", "last-stage", "everything")
RATES = tuple(float(f"{rate:.1e}") for rate in np.geomspace(1e-5, 1e-1, 9))
CHOSEN = "chosen"


def main() -> None:
    """Run what is missing, draw by draw, and print the table of what is there."""
    given = parse()
    settings = {CHOSEN: given.thaw_set} | {f"{rate:.1e}": [*given.thaw_set, *only(rate)] for rate in given.rates}
    for draw in given.draws:
        for name in given.sets:
            files = {own: given.out / name / str(draw) / f"{own}.json" for own in settings}
            missing = {own: file for own, file in files.items() if not file.exists()}
            if missing:
                with tempfile.TemporaryDirectory() as folder:
                    tests = write_images(name, draw, Path(folder) / "images", given)
                    for own, file in missing.items():
                        with_rate = argparse.Namespace(**{**vars(given), "thaw_set": settings[own]})
                        keep(run_thaw(Path(folder), tests, draw, with_rate), file)
    print_table(given)


def only(rate: float) -> list[str]:
    """Settings of thaw that leave the search one rate."""
    return ["search.method=grid", f"search.learning_rates=[{rate}]", "search.steps=1"]


def print_table(given: argparse.Namespace) -> None:
    """A row for each arm and set, then the means."""
    print_header(
        "Test accuracy in percent, and what the search loses in points",
        ["set", "draws", "rates chosen", "at these", "best rate", "at that", "loss", "loss against the best of others"],
    )
    losses: dict[str, list[tuple[float, float]]] = {arm: [] for arm in ARMS}
    for arm in ARMS:
        for name in given.sets:
            found = [read_draw(given.out / name / str(draw), given.rates) for draw in given.draws]
            there = [draw for draw in found if draw and all(arm in one["correct"] for one in draw)]
            if not there:
                continue
            scores = np.array([[100 * accuracy(one["correct"][arm]) for one in draw] for draw in there])
            chosen, grid = scores[:, 0], scores[:, 1:]
            best = int(grid.mean(0).argmax())
            losses[arm].append((grid[:, best].mean() - chosen.mean(), unflattered(grid) - chosen.mean()))
            rates = ", ".join(f"{draw[0]['learning_rates'][arm]:.1e}" for draw in there)
            cells = [name, str(len(there)), rates, f"{chosen.mean():.1f}"]
            cells += [f"{given.rates[best]:.1e}", f"{grid[:, best].mean():.1f}"]
            print_row(arm, [*cells, *(f"{loss:+.2f}" for loss in losses[arm][-1])])
    losses["all"] = [one for arm in ARMS for one in losses[arm]]
    print_header("Mean loss over the sets", ["loss", "loss against the best of others"])
    for arm, over_sets in losses.items():
        if over_sets:
            print_row(arm, [f"{loss:+.2f}" for loss in np.mean(over_sets, 0)])


def read_draw(folder: Path, rates: list[float]) -> list[dict[str, Any]]:
    """The results of a draw, that of the chosen rates first; none unless all are there."""
    files = [folder / f"{own}.json" for own in (CHOSEN, *(f"{rate:.1e}" for rate in rates))]
    return [json.loads(file.read_text()) for file in files] if all(file.exists() for file in files) else []


def unflattered(grid: NDArray[np.float64]) -> float:
    """The mean accuracy over draws (rows), each at the rate (column) that is best in the other draws; NaN for one."""
    if len(grid) < 2:
        return float("nan")
    return float(np.mean([one[np.delete(grid, draw, 0).mean(0).argmax()] for draw, one in enumerate(grid)]))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/search"), help="a file for each part (%(default)s)")
    parser.add_argument("--rates", nargs="+", type=float, default=RATES, help="of the grid (%(default)s)")
    add_settings(parser)
    parser.set_defaults(draws=range(2), sets=("trash", "flowers", "faces", "celeba", "elpv"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
