"""What following the verdict costs, in simulated studies: points of true accuracy lost against the best arm."""

import argparse
import itertools

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from thaw.scoring.verdict import judge

GAPS = (0.0, 0.5, 1.0, 2.0, 3.0, 5.0)
"""True points between the most and the least accurate arm."""
IMAGES = (100, 500, 2000, 5000)
ARMS = (2, 4, 8)
KINDS = {
    "one seed": (1, 0.0, False),
    "three seeds, 1 point apart": (3, 0.01, False),
    "groups": (1, 0.0, True),
}
"""Seeds, the standard deviation of accuracy over them, and whether images come in groups of uneven sizes."""
BEST = 0.9
MARGIN = 0.01


def main() -> None:
    """Print a table for each kind of study and spread of the arms."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=60, help="studies of each cell")
    studies = parser.parse_args().studies
    cells_of: list[tuple[int, NDArray[np.float64]]] = []
    for kind, spread in itertools.product(KINDS, ("evenly below the best", "all alike below the best")):
        print(f"\n{kind}; the cheaper arms {spread}. Points lost by the verdict / the best score / the cheapest arm:")
        print("arms  images " + "".join(f"{f'gap {gap}':>20}" for gap in GAPS))
        for arms, images in itertools.product(ARMS, IMAGES):
            found = [cost(kind, spread, gap, arms, images, studies) for gap in GAPS]
            cells_of += [(images, lost) for lost in found]
            cells = ["{:.2f} / {:.2f} / {:.2f}".format(*lost) for lost in found]
            print(f"{arms:4}  {images:6} " + "".join(f"{cell:>20}" for cell in cells), flush=True)
    print(
        "\nImages: mean of all tables, verdict / best score / cheapest; then the most that the verdict lost in a cell"
    )
    for images in IMAGES:
        rows = np.array([lost for number, lost in cells_of if number == images])
        print("{:6}  {:.2f} / {:.2f} / {:.2f}  {:.2f}".format(images, *rows.mean(0), rows[:, 0].max()))


def cost(kind: str, spread: str, gap: float, arms: int, images: int, studies: int) -> NDArray[np.float64]:
    """Return the mean points lost by the verdict with costs, by the best score (the verdict without) and the cheapest.

    With one seed the truth is of the models, with several of the ways of training.
    """
    seeds, deviation, grouped = KINDS[kind]
    random = np.random.default_rng([round(10 * gap), arms, images])
    truth = np.full(arms, BEST - gap / 100) if spread.startswith("all") else np.linspace(BEST - gap / 100, BEST, arms)
    truth[-1] = BEST
    names = [f"arm{place}" for place in range(arms)]
    costs = {name: float(place) for place, name in enumerate(names)}
    lost = []
    for _ in range(studies):
        groups = uneven(images, random) if grouped else None
        values, true = models(truth, images, (seeds, deviation), groups, random)
        worth = truth if seeds > 1 else true.mean(1)
        found = judge(dict(zip(names, values, strict=True)), costs, MARGIN, None, groups)
        named = [names.index(name) for name in (found.recommended, found.best, names[0])]
        lost.append(worth.max() - worth[named])
    return np.asarray(100 * np.mean(lost, axis=0))


def models(
    truth: NDArray[np.float64],
    images: int,
    training: tuple[int, float],
    groups: NDArray[np.int64] | None,
    random: np.random.Generator,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return which images are classified correctly, (arms, seeds, images), and the true accuracies, (arms, seeds).

    Probit: an image is as hard for all arms, harder for one of them, or for one of its seeds; with correlation 0.7
    between arms and 0.95 between seeds. In groups three tenths of each part are shared.
    """
    seeds, deviation = training

    def noise(*shape: int) -> NDArray[np.float64]:
        own = random.standard_normal((*shape, images))
        if groups is None:
            return own
        shared = random.standard_normal((*shape, int(groups.max()) + 1))[..., groups]
        return np.asarray(np.sqrt(0.3) * shared + np.sqrt(0.7) * own)

    true = np.clip(truth[:, None] + deviation * random.standard_normal((len(truth), seeds)), 0.01, 0.99)
    latent = np.sqrt(0.7) * noise() + np.sqrt(0.25) * noise(len(truth), 1) + np.sqrt(0.05) * noise(len(truth), seeds)
    return (latent < stats.norm.ppf(true)[:, :, None]) * 1.0, true


def uneven(images: int, random: np.random.Generator) -> NDArray[np.int64]:
    """Return groups of log-normal sizes, 8 on average."""
    count = max(8, images // 8)
    codes = random.choice(count, images, p=(weights := random.lognormal(0, 1, count)) / weights.sum())
    return np.asarray(np.unique(codes, return_inverse=True)[1])


if __name__ == "__main__":
    main()
