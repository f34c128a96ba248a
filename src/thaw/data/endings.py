"""Names that say what something is: the endings of image files and tables, in lower case, and splits."""

PICTURES = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".webp",
        ".bmp",
        ".gif",
        ".tif",
        ".tiff",
        ".ppm",
        ".pgm",
        ".pbm",
        ".avif",
        ".jp2",
        ".ico",
        ".tga",
        ".apng",
        ".mpo",
        ".pnm",
        ".dib",
        ".pcx",
        ".qoi",
        ".heic",
        ".heif",
        ".hif",
        ".jxl",
    ]
)
"""Endings of file names that are taken for images."""
TABLES = frozenset([".csv", ".tsv", ".parquet", ".arrow", ".json", ".jsonl"])
"""Endings of the files of a dataset that hold rows."""
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""Names of splits, in lower case, and the split that each is; also of folders, when nothing else stands beside them."""
