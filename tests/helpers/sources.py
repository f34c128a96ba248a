"""The images of two class folders as sources of other kinds."""

import csv
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

CLASSES = ["left", "right"]


def labelled_files(folder: Path) -> list[tuple[Path, str]]:
    """Return the files of class folders, in order, each with its label."""
    return sorted((path, path.parent.name) for path in folder.rglob("*.png"))


def as_csv(folder: Path) -> Path:
    """Write a CSV of paths, labels and ages beside the class folders."""
    path = folder / "table.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "label", "age"])
        writer.writerows([str(p.relative_to(folder)), label, 30] for p, label in labelled_files(folder))
    return path


def as_parquet(folder: Path) -> Path:
    """Write a Parquet file of encoded images and class numbers beside the class folders."""
    path = folder / "table.parquet"
    images = [p.read_bytes() for p, _ in labelled_files(folder)]
    labels = [CLASSES.index(label) for _, label in labelled_files(folder)]
    pq.write_table(pa.table({"image": images, "label": labels}), path)
    return path


def as_dataset(folder: Path, target: Path) -> Path:
    """Write a dataset as the Hugging Face hub holds it into `target`."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=CLASSES)})
    content = {
        "image": [{"bytes": p.read_bytes(), "path": None} for p, _ in labelled_files(folder)],
        "label": [label for _, label in labelled_files(folder)],
    }
    (target / "data").mkdir(parents=True)
    dataset = datasets.Dataset.from_dict(content, features=features)
    dataset.to_parquet(str(target / "data" / "train-00000-of-00001.parquet"))
    return target


def as_saved_dataset(folder: Path, target: Path) -> Path:
    """Write a dataset as `save_to_disk` does into a folder of `target`."""
    datasets.load_dataset(str(as_dataset(folder, target / "hub")))["train"].save_to_disk(str(target / "saved"))
    return target / "saved"
