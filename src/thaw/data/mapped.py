"""Images in a table that is mapped into memory: the file and the place in it that each lies at."""

import os

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Parts = NDArray[np.int64]


def find_parts(content: pa.ChunkedArray, files: list[str]) -> tuple[pa.ChunkedArray, list[str | None], Parts]:
    """The values of a binary column that are mapped from one of `files`.

    Returns the column with null in their place, the file of each, and (n, 2) where in the file it starts and its size
    in bytes; None and -1 for values that lie in memory. What is read from a file can change, and is then found to have
    another digest; a process that looks at mapped bytes of a file that became shorter is ended by the system.
    """
    chunks, paths, parts = [], list[str | None](), [np.empty((0, 2), np.int64)]
    of_map = dict[int, str | None]()
    for chunk in content.chunks:
        path, where = None, np.full((len(chunk), 2), -1, np.int64)
        if (pa.types.is_binary(chunk.type) or pa.types.is_large_binary(chunk.type)) and len(chunk) > chunk.null_count:
            _, offsets, data = chunk.buffers()
            whole = data
            while whole.parent is not None:
                whole = whole.parent  # pyarrow maps a file as one buffer, of which all others are slices
            kind = np.int64 if pa.types.is_large_binary(chunk.type) else np.int32
            ends = np.frombuffer(offsets, kind)[chunk.offset : chunk.offset + len(chunk) + 1].astype(np.int64)
            ends += data.address - whole.address
            if whole.address not in of_map:
                fitting = {file for file in files if _is_map_of(whole, file)}
                of_map[whole.address] = fitting.pop() if len(fitting) == 1 else None
            path = of_map[whole.address]
            if path is not None:
                where[:, 0], where[:, 1] = ends[:-1], np.diff(ends)
                where[np.asarray(chunk.is_null())] = -1
        chunks.append(chunk if path is None else pa.nulls(len(chunk), chunk.type))
        paths += [path if size >= 0 else None for size in where[:, 1].tolist()]
        parts.append(where)
    return pa.chunked_array(chunks, content.type), paths, np.concatenate(parts)


def read_part(path: str, start: int, size: int) -> bytes:
    """`size` bytes of a file from `start` on, fewer where it has become shorter. Raises OSError."""
    with open(path, "rb", buffering=0) as file:
        file.seek(start)
        return file.read(size)


def _is_map_of(whole: pa.Buffer, file: str) -> bool:
    """Whether a buffer is a file, mapped: as long as it is, with the same beginning and the same end."""
    if whole.size != os.path.getsize(file):
        return False
    edge = min(4096, whole.size)
    return all(
        read_part(file, start, edge) == whole.slice(start, edge).to_pybytes() for start in (0, whole.size - edge)
    )
