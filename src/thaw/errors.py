"""The errors that users see: one root; each message is a sentence that says what is wrong and what to do.

ThawError                 exit code 2
├── RecipeError           a recipe key or value
├── DataError             a source, its columns, labels, splits or images
├── ModelError            a backbone, its weights, or a pattern of module names
├── BundleError           a bundle that cannot be loaded
├── ExportError           a bundle that cannot be exported, or an export that differs from it
├── StorageError          the run folder or the cache
└── DivergedError         a loss that became infinite or NaN
"""

import errno

OUT_OF_MEMORY = (
    *("out of memory", "can't allocate memory", "bad_alloc", "can't start new thread"),
    *("could not create a primitive", "could not create a memory"),  # oneDNN's
)
"""Parts of the messages with which torch, its libraries and Pillow report that memory could not be allocated."""


class ThawError(Exception):
    """An error that the user can fix; its message is shown without a traceback."""


class RecipeError(ThawError):
    """A recipe or a `--set` option cannot be used."""


class DataError(ThawError):
    """Images or labels cannot be used."""


class ModelError(ThawError):
    """A backbone, its weights or a selection of parameters cannot be used."""


class BundleError(ThawError):
    """A folder is not a bundle, or the bundle is damaged."""


class ExportError(ThawError):
    """A bundle cannot be exported, or the export differs from it."""


class StorageError(ThawError):
    """A file or folder cannot be read or written, or holds something else."""


class DivergedError(ThawError):
    """The loss became infinite or NaN."""


def first_line(error: BaseException) -> str:
    """Return the type and the first line of another library's error, to quote in a sentence."""
    return f"{type(error).__name__}: {error}".split("\n")[0][:200].rstrip(":. ")


def out_of_memory(error: BaseException) -> bool:
    """Return True if an error, of any library, says that the device or the machine is out of memory."""
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    return isinstance(error, MemoryError) or any(phrase in str(error) for phrase in OUT_OF_MEMORY)
