"""A ledger in the cache: how many studies have looked at a test set on this machine."""

import numpy as np

from thaw.cache.arrays import key_of
from thaw.cache.budget import cache_folder
from thaw.cache.files import is_read_only, writing
from thaw.recipe import to_toml
from thaw.run.results import StudyResult


def count_looks(result: StudyResult) -> int | None:
    """Enter a study in the ledger of its test images; return how many different studies are in it, this one included.

    A study is known by its recipe, so that one that is run again counts once; a test set by the content of its images.
    The ledger is a text file with a line for each look; clearing the cache leaves it.

    Returns
    -------
    int or None
        None where the cache is read-only.

    Raises
    ------
    StorageError
        If the ledger cannot be written.
    """
    folder = cache_folder() / "looks"
    if is_read_only(cache_folder()) or is_read_only(folder):
        return None
    digests = np.array(result.dataset.source.digests)[result.dataset.splits.test]
    path = folder / f"{key_of(test=sorted(digests.tolist()))}.txt"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as ledger:
            ledger.write(f"{key_of(recipe=to_toml(result.recipe))}\n")
        return len(set(path.read_text(encoding="utf-8").split()))
