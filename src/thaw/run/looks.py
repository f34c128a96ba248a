"""A ledger in the cache: how many studies and models have looked at a test set on this machine."""

from collections.abc import Sequence

from thaw.cache.arrays import key_of
from thaw.cache.budget import cache_folder
from thaw.cache.files import is_read_only, writing
from thaw.recipe import to_toml
from thaw.run.results import StudyResult


def count_looks(result: StudyResult) -> int | None:
    """Enter a study in the ledgers of its test images and further test sets; see `enter_look`, of the test images.

    A study is known by its recipe, so that one that is run again counts once.
    """
    who = key_of(recipe=to_toml(result.recipe))
    for one in result.shifted:
        if one.kind == "source":
            enter_look(one.digests, who)
    test = result.dataset.splits.test
    return enter_look([result.dataset.source.digests[row] for row in test.tolist()], who)


def enter_look(digests: Sequence[str], who: str) -> int | None:
    """Enter a study, or a model, in the ledger of some test images; return how many different ones are in it.

    A test set is known by the content of its images. The ledger is a text file with a line for each look; clearing the
    cache leaves it.

    Parameters
    ----------
    digests
        Content digests of the images.
    who
        A digest of what looks, which counts once.

    Returns
    -------
    int or None
        This one included; None where the cache is read-only.

    Raises
    ------
    StorageError
        If the ledger cannot be written.
    """
    folder = cache_folder() / "looks"
    if is_read_only(cache_folder()) or is_read_only(folder):
        return None
    path = folder / f"{key_of(test=sorted(digests))}.txt"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as ledger:
            ledger.write(f"{who}\n")
        return len(set(path.read_text(encoding="utf-8").split()))
