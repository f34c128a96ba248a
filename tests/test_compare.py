"""Runs compared: scores, tests and the exit code against plain loops over `predictions.parquet`."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.stats import binomtest

from helpers.cli import thaw
from helpers.synthetic_run import make_run
from thaw.errors import StorageError
from thaw.run.compare import compare_runs
from thaw.run.metrics import FILE


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "base")


def changed(base: Path, target: Path, wrong: int, arm: str = "") -> Path:
    """A copy of a run in which so many more answers of an arm, by default the one to use, are wrong."""
    shutil.copytree(base, target)
    arm = arm or json.loads((base / FILE).read_text())["recommended"]
    table = pq.read_table(base / "predictions.parquet").to_pandas()
    right = table.index[(table["arm"] == arm) & (table["label"] == table["predicted"])][:wrong]
    first, second = (name for name in table.columns if name.startswith("p_"))
    table.loc[right, [first, second]] = table.loc[right, [second, first]].to_numpy()
    table.loc[right, "predicted"] = [
        {first: second, second: first}[f"p_{label}"].removeprefix("p_") for label in table.loc[right, "label"]
    ]
    order = np.random.default_rng(0).permutation(len(table))  # rows of another order are the same answers
    table.iloc[order].to_parquet(target / "predictions.parquet", index=False)
    recipe = (target / "recipe.toml").read_text()
    (target / "recipe.toml").write_text(re.sub(r"^epochs = \d+", "epochs = 17", recipe, flags=re.M))
    return target


def test_scores_and_tests_follow_from_the_predictions(base: Path, tmp_path: Path) -> None:
    compared = compare_runs([base, changed(base, tmp_path / "later", wrong=12)])
    one, other = (pq.read_table(folder / "predictions.parquet").to_pandas() for folder in (base, tmp_path / "later"))
    for told, table in zip(compared.runs, (one, other), strict=True):
        right = table["label"] == table["predicted"]
        assert told.scores == pytest.approx(right.groupby(table["arm"]).mean().to_dict())
        assert told.test_images == 700
    arm = compared.runs[0].recommended
    first, second = (table[table["arm"] == arm].set_index("id").sort_index() for table in (one, other))
    lead = (second["label"] == second["predicted"]).astype(int) - (first["label"] == first["predicted"])
    found = {(it.base_arm, it.arm): it.test for it in compared.differences}
    assert list(found) == [(arm, arm), *((name, name) for name in compared.runs[0].scores if name != arm)]
    test = found[arm, arm]
    assert test.test == "exact McNemar"
    assert test.difference == pytest.approx(lead.mean()) == -12 / 700
    assert test.p == pytest.approx(binomtest((lead == 1).sum(), (lead != 0).sum()).pvalue)
    assert test.p_holm == pytest.approx(min(1, len(found) * test.p))
    assert all(it.difference == 0 and it.p == 1 for pair, it in found.items() if pair != (arm, arm))
    assert compared.lost() == pytest.approx(100 * 12 / 700)
    assert compared.notes == []


def test_other_test_images_stand_side_by_side_without_a_test(base: Path, tmp_path: Path) -> None:
    later = changed(base, tmp_path / "later", wrong=0)
    table = pq.read_table(later / "predictions.parquet").to_pandas()
    table["id"] = ["new.png" if name == table["id"].min() else name for name in table["id"]]
    table.to_parquet(later / "predictions.parquet", index=False)
    compared = compare_runs([base, later])
    assert compared.differences == []
    assert [note.partition(": ")[2] for note in compared.notes] == [
        f"it has other test images (699 of its 700 are in both), so its scores stand beside those of {base} without "
        "a test"
    ]
    assert compared.lost() == 0


def test_the_exit_code_is_for_ci(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """7 of 700 images are one point."""
    later = changed(base, tmp_path / "later", wrong=7)
    assert thaw(monkeypatch, "compare", base, later) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "loses 1.0 points against the first run" in out
    assert "-1.0 points (95% interval" in out
    assert "train.epochs" in out
    assert "17" in out
    assert thaw(monkeypatch, "compare", base, later, "--worse-by", "1") == 1
    assert thaw(monkeypatch, "compare", base, later, "--worse-by", "1.1") == 0
    assert thaw(monkeypatch, "compare", later, base, "--worse-by", "1") == 0
    capsys.readouterr()
    assert thaw(monkeypatch, "compare", base, later, "--json") == 0
    assert json.loads(capsys.readouterr().out)["recipes"]["train.epochs"][1] == 17


def test_several_seeds_are_tested_over_those_that_both_runs_have(tmp_path: Path) -> None:
    one, other = (make_run(tmp_path / name, seeds=seeds) for name, seeds in (("a", (0, 1, 2)), ("b", (0, 1))))
    tests = compare_runs([one, other]).differences
    assert {it.test.test for it in tests} == {"t"}


def test_what_is_no_run_is_one_sentence(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(StorageError, match="two runs or more"):
        compare_runs([base])
    assert thaw(monkeypatch, "compare", base, tmp_path / "none") == 2
    assert "is not a finished run" in capsys.readouterr().err
