"""The errors that people see: one root, one sentence each, saying what is wrong and what to do.

ThawError                 exit code 2
├── RecipeError           a recipe key or value
├── DataError             a source, its columns, labels, splits or pictures
├── ModelError            a backbone, its weights, or a pattern of module names
├── BundleError           a bundle that cannot be loaded
├── ExportError           a bundle that cannot be exported, or an export that differs from it
├── StorageError          the run folder or the cache
└── DivergedError         a loss that became infinite
"""

import errno

SHORTAGES = (
    *("out of memory", "can't allocate memory", "bad_alloc", "can't start new thread"),
    *("could not create a primitive", "could not create a memory"),  # oneDNN's
)
"""What torch, its libraries and Pillow say where memory that they ask for is not to be had."""


class ThawError(Exception):
    """Something the person can put right; the message is shown without a traceback."""


class RecipeError(ThawError):
    """A recipe, or a `--set`, that cannot be used."""


class DataError(ThawError):
    """Images or labels that cannot be used."""


class ModelError(ThawError):
    """A backbone, weights or a selection of parameters that cannot be used."""


class BundleError(ThawError):
    """A folder that is no sound bundle."""


class ExportError(ThawError):
    """A bundle that cannot be exported."""


class StorageError(ThawError):
    """A folder that cannot be read or written, or that holds something else."""


class DivergedError(ThawError):
    """A loss that became infinite or no number."""


def first_line(error: BaseException) -> str:
    """The kind of another library's error and the first line of what it says, to quote in a sentence."""
    return f"{type(error).__name__}: {error}".split("\n")[0][:200].rstrip(":. ")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error, of whatever library, says that there is no more memory, of the device or of the machine."""
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    return isinstance(error, MemoryError) or any(said in str(error) for said in SHORTAGES)
