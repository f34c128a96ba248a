"""What a study leaves out, why, and how much of it is too much."""

from collections.abc import Iterable
from dataclasses import dataclass

from thaw.errors import DataError
from thaw.recipe import Data


@dataclass(frozen=True)
class Skipped:
    """A file or row that the study leaves out, and why."""

    id: str
    reason: str
    bad: bool = False
    """Whether an image was meant to be there that cannot be used."""


def check_bad(skipped: Iterable[Skipped], good: int, data: Data) -> None:
    """Stop where a bad image is to stop the study, or where too many of them are bad; `good` is of the others.

    Raises DataError.
    """
    bad = [one for one in skipped if one.bad]
    if not bad:
        return
    example = f"{bad[0].id!r}: {bad[0].reason}"
    if data.on_bad_image == "fail":
        more = f", and {len(bad) - 1:,} more" if len(bad) > 1 else ""
        raise DataError(
            f"{data.source} has an image that cannot be used, {example}{more}; "
            "fix or remove it, or set data.on_bad_image to 'skip'."
        )
    if len(bad) > data.max_bad_fraction * (len(bad) + good) or not good:
        raise DataError(
            f"{len(bad):,} of {len(bad) + good:,} images of {data.source} cannot be used, more than "
            f"data.max_bad_fraction = {data.max_bad_fraction:g} allows, such as {example}; fix them or allow more."
        )
