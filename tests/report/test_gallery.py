"""The gallery's data agree with the run's tables, stay in their budget and cannot leave their element."""

import base64
import io
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from helpers.synthetic_run import make_run
from thaw.report import gallery as gallery_module
from thaw.report.gallery import duplicate_pairs, gallery, label_errors, mistakes
from thaw.run.metrics import read_metrics

HOSTILE = "</script><!--<script>&amp;\u2028"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"), images=60, seeds=(3, 4), text=HOSTILE, errors=True)


@pytest.fixture(scope="module")
def metrics(run):
    return read_metrics(run)


def test_answers_are_those_of_the_first_seed(run, metrics):
    found = json.loads(gallery(run, metrics))
    told = {}
    for row in pq.read_table(run / "predictions.parquet").to_pylist():
        if row["seed"] == 3:
            told[row["arm"], row["id"]] = row
    for arm, of_arm in found["arms"].items():
        for place, name in enumerate(found["ids"]):
            row = told[arm, name]
            assert found["classes"][of_arm["predicted"][place]] == row["predicted"]
            assert found["classes"][found["labels"][place]] == row["label"]
            assert of_arm["sure"][place] == round(row["p_" + row["predicted"]], 4)


def test_pictures_maps_and_slices_are_those_of_the_run(run, metrics):
    found = json.loads(gallery(run, metrics))
    rows = pq.read_table(run / "gallery.parquet").to_pylist()
    assert [base64.b64decode(uri.partition(",")[2]) for uri in found["pictures"]] == [row["image"] for row in rows]
    for arm in metrics.arms:
        maps = [base64.b64decode(encoded) for encoded in found["arms"][arm]["heat"]]
        assert maps == [row[f"heat:{arm}"] for row in rows]
    assert found["slices"]["eyeglasses"] == [row["slice:eyeglasses"] for row in rows]
    named = {row["id"]: row["suggested"] for row in pq.read_table(run / "label_errors.parquet").to_pylist()}
    assert found["suspects"] == [named.get(row["id"]) for row in rows]


def test_mistakes_and_label_errors_have_the_map_of_their_arm(tmp_path):
    run = make_run(tmp_path, images=60, errors=True)
    metrics = read_metrics(run)
    for found, table, arm in (
        (mistakes(run, metrics), "gallery", metrics.best),
        (label_errors(run, metrics), "label_errors", metrics.recommended),
    ):
        maps = {row["id"]: row[f"heat:{arm}"] for row in pq.read_table(run / f"{table}.parquet").to_pylist()}
        assert found
        assert [base64.b64decode(it["heat"]) for it in found] == [maps[it["id"]] for it in found]


def test_hostile_names_stay_inside_the_element(run, metrics):
    text = gallery(run, metrics)
    assert not set("<>&\u2028\u2029") & set(text)
    assert all(name.endswith(HOSTILE) for name in json.loads(text)["ids"])


def test_pictures_beyond_the_budget_become_smaller(run, metrics, monkeypatch):
    whole = sum(map(len, pq.read_table(run / "gallery.parquet")["image"].to_pylist())) * 4 // 3
    maps = sum(len(heat) for of_arm in json.loads(gallery(run, metrics))["arms"].values() for heat in of_arm["heat"])
    for share, largest in ((0.8, 96), (0.3, 80)):
        monkeypatch.setattr(gallery_module, "GALLERY_BYTES", maps + int(share * whole))
        pictures = json.loads(gallery(run, metrics))["pictures"]
        assert sum(len(uri.partition(",")[2]) for uri in pictures) <= share * whole * 1.03
        assert pictures[0].startswith("data:image/webp;base64,")
        image = Image.open(io.BytesIO(base64.b64decode(pictures[0].partition(",")[2])))
        assert max(image.size) <= largest
        first = Image.open(io.BytesIO(pq.read_table(run / "gallery.parquet")["image"][0].as_py()))
        difference = np.asarray(first.resize(image.size), float) - np.asarray(image.convert("RGB"), float)
        assert np.abs(difference).mean() < 12


def test_duplicate_pairs_are_shown_where_both_pictures_were_kept(run, metrics):
    kept = {row["id"] for row in pq.read_table(run / "gallery.parquet").to_pylist()}
    kept |= {row["id"] for row in pq.read_table(run / "examples.parquet").to_pylist()}
    expected = [(it.a, it.b) for it in metrics.audit.pairs if {it.a, it.b} <= kept]
    assert expected
    assert [(it.a, it.b) for it, _, _ in duplicate_pairs(run, metrics)] == expected


def test_a_run_without_label_errors(run, metrics, tmp_path):
    for name in ("gallery.parquet", "predictions.parquet", "examples.parquet"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    pq.write_table(pq.read_table(run / "label_errors.parquet").slice(0, 0), tmp_path / "label_errors.parquet")
    assert set(json.loads(gallery(tmp_path, metrics))["suspects"]) == {None}
    assert label_errors(tmp_path, metrics) == []
