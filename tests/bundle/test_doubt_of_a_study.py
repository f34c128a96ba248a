"""What a study's bundles say in doubt is what it measured: sets, thresholds and what is unlike, on its own images."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import thaw
from helpers.images import encoded_image
from thaw.errors import RecipeError
from thaw.scoring.conformal import floor_of

SETTINGS = (
    "images.size=32",
    "train.precision=fp32",
    "decide.positive=right",
    "decide.recall=0.8",
    "decide.coverage=0.8",
    "decide.false_alarms=0.1",
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Pictures in folders of splits; one label in eight is wrong, so that nobody can be sure."""
    root = tmp_path_factory.mktemp("study")
    for seed in range(160):
        split = ("train", "validation", "validation", "test")[seed % 4]
        folder = root / "pictures" / split / ("left", "right")[(seed // 4 + (seed % 32 == seed % 4)) % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{seed:03d}.png").write_bytes(encoded_image(seed, seed // 4 % 2, side=40, kind="PNG"))
    (root / "one.toml").write_text(
        '[model]\nbackbone = "torchvision/mobilenet_v2"\nweights = "thaw:mobilenet_v2"\n'
        '[arms.head]\ntrain = "head"\nhead = "linear"\n'
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THAW_CACHE", str(root / "cache"))
        yield root


def study(root: Path, name: str, *settings: str) -> thaw.Run:
    recipe = thaw.load_recipe(str(root / "one.toml"), str(root / "pictures"), (*SETTINGS, *settings))
    thaw.run_study(recipe, root / name)
    return thaw.read_run(root / name)


def files_of(root: Path, split: str) -> tuple[list[Path], np.ndarray]:
    files = sorted((root / "pictures" / split).rglob("*.png"))
    return files, np.array([("left", "right").index(file.parent.name) for file in files])


def test_a_bundle_says_what_the_study_measured(root: Path) -> None:
    run = study(root, "held-out", "train.refit=train")
    found = run.metrics.arms["head"].doubt
    bundle = thaw.load(run.folder / "models" / "head", device="cpu", precision="fp32")
    (held, held_labels), (files, labels) = files_of(root, "validation"), files_of(root, "test")
    assert found is not None
    assert not found.rehearsed
    validation, test = bundle.answer(held), bundle.answer(files)

    own = validation.probabilities[np.arange(len(held)), held_labels]
    assert found.sets.by_class
    floors = [floor_of(own[held_labels == code], 0.8) for code in (0, 1)]
    assert found.sets.floors == pytest.approx(floors, rel=1e-4)
    assert test.sets is not None
    assert found.sets.covered == pytest.approx(test.sets[np.arange(len(files)), labels].mean())
    assert found.sets.size == pytest.approx(test.sets.sum(1).mean())

    assert found.decision is not None
    assert found.decision.test is not None
    assert found.decision.threshold == pytest.approx(floor_of(own[held_labels == 1], 0.8), rel=1e-4)
    assert test.decided is not None
    assert found.decision.test.recall == pytest.approx((test.decided == 1)[labels == 1].mean())

    assert validation.unlike is not None
    assert test.unlike is not None
    assert found.unlike.threshold is not None
    # of 80 distances the 73rd is the threshold, and the eighth part of the test images may round to either side of it
    assert np.sort(validation.unlike)[72] == pytest.approx(1, rel=1e-3)
    assert found.unlike.flagged == pytest.approx((test.unlike > 1).mean(), abs=0.03)
    noise = np.random.default_rng(0).integers(0, 256, (10, 64, 64, 3), dtype=np.uint8)
    assert bundle.answer(noise).unlike.min() > np.median(test.unlike)

    page = (run.folder / "report.html").read_text()
    assert "When not to trust an answer" in page
    assert (run.folder / "figures" / "risk-coverage.png").is_file()
    card = (run.folder / "models" / "head" / "README.md").read_text()
    assert "A prediction set is the classes that an image may be; 80% of sets should hold the true one" in card


@pytest.mark.slow
def test_a_rehearsal_chooses_for_a_network_that_saw_more(root: Path) -> None:
    run = study(root, "rehearsed", "train.rehearse=true")
    found = run.metrics.arms["head"].doubt
    assert found is not None
    assert found.rehearsed
    assert found.sets.floors is not None
    assert found.unlike.threshold is not None
    assert (
        "trained on the training images alone, not by the one that is kept" in (run.folder / "report.html").read_text()
    )
    bundle = run.bundle("head")
    test = bundle.answer(files_of(root, "test")[0])
    assert found.unlike.flagged == pytest.approx((test.unlike > 1).mean(), abs=0.03)
    again = study(root, "rehearsed", "train.rehearse=true").metrics.arms["head"].doubt
    assert again == found


def test_without_validation_images_there_is_none(root: Path) -> None:
    run = study(root, "refit")
    found = run.metrics.arms["head"].doubt
    assert found is not None
    assert found.sets.floors is None
    assert "train.rehearse" in found.sets.reason
    assert found.unlike.threshold is None
    assert found.decision is not None
    assert found.decision.threshold is None
    assert run.bundle("head").doubt is None
    assert not (run.folder / "models" / "head" / "unlike.safetensors").exists()
    assert "There are no prediction sets" in (run.folder / "report.html").read_text()


def test_a_class_that_the_data_does_not_have_is_named(root: Path) -> None:
    with pytest.raises(RecipeError, match=r"decide\.positive = 'up' is no class of the data; it has left and right"):
        study(root, "none", "decide.positive=up")
