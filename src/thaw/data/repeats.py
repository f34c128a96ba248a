"""Other draws of a study's splits, with which its trials are repeated."""

import numpy as np

from thaw.data.source import Source
from thaw.data.splits import Splits, make_splits, split_parts
from thaw.errors import DataError
from thaw.recipe import Data


def repeat_seed(seed: int, number: int) -> int:
    """Return the seed of a repeat, from 1 on, derived from that of the study: numpy's stream of `[seed, 2, number]`."""
    return int(np.random.default_rng([seed, 2, number]).integers(1 << 32))


def drawn_parts(source: Source, data: Data) -> list[str]:
    """Return which of `validation` and `test` are drawn; the others are splits that the source brings."""
    return [part for part, value in split_parts(source, data).items() if not isinstance(value, str)]


def repeat_splits(source: Source, data: Data) -> tuple[Splits, ...]:
    """Draw the splits of every repeat but the first, which is the study itself.

    They are drawn as those of the study, see `make_splits`, with other seeds: stratified, of whole groups. A split that
    the source brings stays; where it brings all, there is nothing to draw, and no repeat. Raises DataError where a draw
    cannot be had.
    """
    if not drawn_parts(source, data):
        return ()
    found = []
    for number in range(1, data.repeats):
        other = data.model_copy(update={"seed": repeat_seed(data.seed, number)})
        try:
            found.append(make_splits(source, other))
        except DataError as error:
            raise DataError(f"data.repeats = {data.repeats}: in draw {number + 1}, {error}") from error
    return tuple(found)


def pooled(splits: Splits, repeats: tuple[Splits, ...]) -> Splits:
    """Return splits that stand for those of all repeats, for what is computed once for all of them.

    Training and validation are the images that any draw may train on, however many draws there are.
    """
    train = np.union1d(splits.train, splits.validation)
    test = splits.test
    if any(not np.array_equal(other.test, test) for other in repeats):
        train = test = np.union1d(train, test)
    return Splits(train, train, test, {})
