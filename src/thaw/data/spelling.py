"""Warnings of names that are probably two spellings of one, or several classes in one."""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from thaw.text import listed

SEPARATORS = re.compile(r"\s*[;|,+&]\s*")
"""What stands between classes where an image has several."""
NAMED = 3
"""Examples that are named."""


def warn_of_classes(names: Iterable[str]) -> Iterator[str]:
    """Warn of classes that differ in case, spaces or the coding of accents only, and of classes that list others."""
    names = list(names)
    for alike in _alike(names, spelling):
        yield f"the classes {_quoted(alike)} are probably one in several spellings; write them alike"
    parts = {name: [part for part in SEPARATORS.split(name) if part] for name in names}
    times = Counter(part for several in parts.values() for part in set(several))
    lists = [name for name, several in parts.items() if len(several) > 1 and all(times[part] > 1 for part in several)]
    if lists:
        yield (
            f"{_quoted(lists)} {'lists' if len(lists) == 1 else 'list'} several classes and "
            f"{'is a class of its own' if len(lists) == 1 else 'are classes of their own'}; each image has one class"
        )


def warn_of_names(ids: Iterable[str]) -> Iterator[str]:
    """Warn of files whose names differ in the coding of accents only, as those of a Mac and of a PC do."""
    if alike := _alike([name for name in ids if not name.isascii()], lambda name: unicodedata.normalize("NFC", name)):
        yield (
            f"{len(alike):,} names of files are there with composed and with decomposed accents, such as "
            f"{_quoted(alike[0])}; they are probably copies"
        )


def spelling(name: str) -> str:
    """A name without what people write in several ways: case, spaces, `_` and `-`, the coding of accents."""
    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    return re.sub(r"[\s_\u200b-]+", " ", plain).strip()


def _alike(names: list[str], same: Callable[[str], str]) -> list[list[str]]:
    groups: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        groups.setdefault(same(name), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def _quoted(names: list[str]) -> str:
    """Names as Python writes them, where two look alike in ASCII."""
    shown = [repr(name) for name in names[:NAMED]]
    if len({unicodedata.normalize("NFC", name) for name in shown}) < len(shown):
        shown = [ascii(name) for name in names[:NAMED]]
    return listed([*shown, f"{len(names) - NAMED:,} more"] if len(names) > NAMED else shown)
