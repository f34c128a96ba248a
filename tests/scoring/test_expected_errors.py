"""The expected precision of label errors is near the true one, and a person's corrections come back."""

from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit, softmax

import thaw
from helpers.images import encoded_image
from helpers.studies import SETTLED
from thaw.audit.label_errors import chance_of_error, rank, suggest
from thaw.compute.device import choose_compute
from thaw.data.load import load_dataset
from thaw.errors import DataError
from thaw.progress import Clock


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("flipped", [0.03, 0.1])
@pytest.mark.parametrize("power", [1.0, 2.0])
def test_the_expected_precision_is_near_the_true_one(classes: int, flipped: float, power: float) -> None:
    random = np.random.default_rng(1)
    n = 8000
    logits = random.normal(0, 3, (n, classes))
    true = np.array([random.choice(classes, p=row) for row in softmax(logits, 1)])
    labels, wrong = true.copy(), random.random(n) < flipped
    labels[wrong] = (true[wrong] + random.integers(1, classes, wrong.sum())) % classes
    said = softmax(power * logits, 1)  # a probe that is too sure of itself
    found = rank(*suggest([(np.arange(n), said)], labels), labels, False)
    precision = wrong[found.rows[found.errors]].mean()
    summary = found.summary([f"c{code}" for code in range(classes)], labels)
    assert summary.precision == pytest.approx(precision, abs=0.15)
    assert sum(it.count for it in summary.classes) == summary.count
    weighted = sum(it.count * it.precision for it in summary.classes) / summary.count
    assert weighted == pytest.approx(summary.precision)


def test_the_chance_is_bayes_rule_where_the_probe_is_calibrated() -> None:
    random, n, swapped = np.random.default_rng(0), 60_000, 0.05
    lead = random.normal(0, 4, n)
    right = random.random(n) < expit(lead)
    observed = np.where(random.random(n) < swapped, ~right, right)
    p = np.where(observed, expit(lead), expit(-lead))
    own = np.where(observed, lead, -lead)
    expected = swapped * expit(-own) / ((1 - swapped) * expit(own) + swapped * expit(-own))
    np.testing.assert_allclose(chance_of_error(p, 1 - p, 2), expected, atol=0.05)


def test_corrections_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(60):
        folder = tmp_path / "pictures" / ("left", "right")[(seed % 2) ^ (seed < 2)]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{seed:03d}.png").write_bytes(encoded_image(seed, seed % 2, side=40))
    settings = ("images.size=32", "model.backbone=timm/test_resnet", "model.weights=random")
    recipe = thaw.load_recipe("photos", str(tmp_path / "pictures"), (*SETTLED, *settings))
    compute = choose_compute("cpu", "fp32")
    before = load_dataset(recipe, compute, Clock())
    table = tmp_path / "corrections.csv"
    table.write_text("id,split,corrected\nright/000.png,train,left\nleft/001.png,test,right\nleft/002.png,train,\n")
    monkeypatch.chdir(tmp_path)
    after = load_dataset(
        thaw.load_recipe("photos", str(tmp_path / "pictures"), (*SETTLED, *settings, "data.labels=corrections.csv")),
        compute,
        Clock(),
    )
    changed = np.flatnonzero(before.source.labels != after.source.labels)
    assert sorted(after.source.ids[changed]) == ["left/001.png", "right/000.png"]
    assert [after.source.classes[code] for code in after.source.labels[changed]] == [
        {"right/000.png": "left", "left/001.png": "right"}[name] for name in after.source.ids[changed]
    ]
    for split, rows in before.splits.rows().items():
        assert np.array_equal(rows, after.splits.rows()[split])
    for text, message in (
        ("id,corrected\nnone.png,left\n", "does not have"),
        ("id,corrected\nleft/002.png,up\n", "not a class"),
        ("id,fixed\n", "no column 'corrected'"),
    ):
        table.write_text(text)
        wrong = recipe.model_copy(update={"data": recipe.data.model_copy(update={"labels": str(table)})})
        with pytest.raises(DataError, match=message):
            load_dataset(wrong, compute, Clock())
