"""JPEG XL before it is decoded: the size that its header states."""

STARTS = (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")
"""How files begin: a bare codestream, or a container of boxes."""
RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}
"""Width to height, by the code that stands for a width."""
LENGTHS = (9, 13, 18, 30)
"""Bits of a side's length, by the selector before it."""
HEADER = 16
"""Bytes in which the size ends, signature included."""


def read_size(content: bytes) -> tuple[int, int]:
    """Return the width and height of an encoded JPEG XL image. Raises ValueError where it states none.

    See ISO/IEC 18181-1, `SizeHeader`, and 18181-2 for the boxes.
    """
    codestream = content if content.startswith(STARTS[0]) else _codestream(content)
    if len(codestream) < HEADER or not codestream.startswith(STARTS[0]):
        raise ValueError("the JPEG XL file holds no image")
    left = int.from_bytes(codestream[2:HEADER], "little")

    def bits(count: int) -> int:
        nonlocal left
        value = left & ((1 << count) - 1)
        left >>= count
        return value

    small = bits(1)

    def side() -> int:
        return 8 * (bits(5) + 1) if small else bits(LENGTHS[bits(2)]) + 1

    height = side()
    ratio = bits(3)
    if not ratio:
        return side(), height
    wide, high = RATIOS[ratio]
    return height * wide // high, height


def _codestream(content: bytes) -> bytes:
    """Return the beginning of the codestream in a container, which may have it in parts."""
    found, at = b"", 0
    while at + 8 <= len(content) and len(found) < HEADER:
        size, kind, start = int.from_bytes(content[at : at + 4], "big"), content[at + 4 : at + 8], at + 8
        if size == 1:
            size, start = int.from_bytes(content[start : start + 8], "big"), at + 16
        end = at + size if size else len(content)
        if end < start:
            break
        if kind == b"jxlc":
            return content[start : min(end, start + HEADER)]
        if kind == b"jxlp":
            found += content[start + 4 : min(end, start + 4 + HEADER)]
        at = end
    return found
