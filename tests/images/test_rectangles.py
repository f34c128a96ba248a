"""A study of rectangles: its images, heat maps, report and bundles, and a classifier."""

import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import thaw
from helpers.images import encoded, make_class_folders, noise
from thaw.images.decode import decode_picture

SETTINGS = (
    "images.size=[48,64]",
    "images.resize=letterbox",
    "search.steps=2",
    "search.learning_rates=[1e-3]",
    "train.epochs=1",
    "train.batch_size=8",
    "train.precision=fp32",
)


@pytest.mark.slow
def test_a_study_of_rectangles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THAW_CACHE", str(tmp_path / "cache"))
    pictures = make_class_folders(tmp_path / "pictures", 40)
    (tmp_path / "one.toml").write_text(
        '[model]\nbackbone = "torchvision/mobilenet_v2"\nweights = "thaw:mobilenet_v2"\n[arms.head]\ntrain = "head"\n'
    )
    thaw.run_study(thaw.load_recipe(str(tmp_path / "one.toml"), str(pictures), SETTINGS), tmp_path / "run")
    run = thaw.read_run(tmp_path / "run")
    assert (run.metrics.images.size, run.metrics.images.resize) == ((48, 64), "letterbox")
    shown = pq.read_table(run.folder / "examples.parquet")["image"][0].as_py()
    assert Image.open(io.BytesIO(shown)).size == (64, 48)
    heat = pq.read_table(run.folder / "gallery.parquet")["heat:head"]
    assert {len(one.as_py()) for one in heat} == {14 * 14}
    assert "just fits inside 48 by 64 pixels" in (run.folder / "report.html").read_text()
    bundle = thaw.load(run.folder / "models" / "head", device="cpu", precision="fp32")
    rows = run.predictions.to_pylist()
    measured = [[row[f"p_{name}"] for name in bundle.classes] for row in rows]
    np.testing.assert_allclose(bundle.predict_proba([pictures / row["id"] for row in rows]), measured, atol=1e-6)
    square = decode_picture((pictures / rows[0]["id"]).read_bytes(), bundle.preprocessing, "exact")
    assert (square[:, :8] == (124, 116, 104)).all()  # padded left and right
    assert (square[:, -8:] == (124, 116, 104)).all()


def test_a_classifier_of_rectangles() -> None:
    images = [encoded(noise(40 + seed, 30, seed=seed)) for seed in range(12)]
    classifier = thaw.Classifier(
        "timm/test_resnet", "random", epochs=1, learning_rates=[1e-3], size=(32, 48), precision="fp32", device="cpu"
    )
    classifier.fit(images, [seed % 2 for seed in range(12)])
    assert classifier.bundle_.preprocessing.size == (32, 48)
    assert classifier.predict_proba(images).shape == (12, 2)
