"""thaw.Classifier keeps scikit-learn's conventions, and is an arm of a study under another name."""

import io
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import parametrize_with_checks

import thaw
from helpers.images import encoded_image
from thaw.classifier import _images_in
from thaw.errors import DataError

TINY: dict[str, Any] = {
    "backbone": "timm/test_resnet",
    "weights": "random",
    "train": "all",
    "size": 16,
    "epochs": 1,
    "learning_rates": (1e-2,),
    "precision": "fp32",
    "device": "cpu",
    "settings": {"cache.activations": "off"},
}
LEARNS = {"epochs": 4, "batch_size": 32}
"""Enough to tell the blobs of `check_classifiers_train` apart."""
EXCEPTIONS = {
    "check_methods_subset_invariance": "wants probabilities equal to 1e-7 whatever the batch; fp32 kernels round "
    "differently at another batch size, see the test of batches below",
    "check_array_api_input": "needs the environment variable SCIPY_ARRAY_API, and images come as numpy arrays",
}


@parametrize_with_checks([thaw.Classifier(**TINY)], expected_failed_checks=lambda _: EXCEPTIONS)
def test_scikit_learn_finds_its_conventions(estimator: Any, check: Any) -> None:
    if check.func.__name__ == "check_classifiers_train":
        estimator = clone(estimator).set_params(**LEARNS)
    check(estimator)


@pytest.fixture
def images() -> tuple[list[bytes], list[str]]:
    """24 pictures, brighter on the left or on the right, and which."""
    return [encoded_image(seed, seed % 2) for seed in range(24)], ["left", "right"] * 12


def test_it_learns_and_becomes_a_bundle(images: tuple[list[bytes], list[str]], tmp_path: Path) -> None:
    X, y = images
    fitted = thaw.Classifier(size=64, epochs=12, batch_size=8, learning_rates=(1e-3, 1e-2), precision="fp32").fit(X, y)
    assert fitted.classes_.tolist() == ["left", "right"]
    assert fitted.score(X, y) > 0.9
    assert [row["learning_rate"] for row in fitted.search_] == [1e-3, 1e-2]
    assert len(fitted.epochs_) == 12
    opened = [Image.open(io.BytesIO(one)) for one in X]
    for form in (opened, [np.array(one.convert("RGB")) for one in opened]):
        np.testing.assert_allclose(fitted.predict_proba(form), fitted.predict_proba(X), atol=1e-6)
    fitted.save(tmp_path / "bundle")
    loaded = thaw.load(tmp_path / "bundle", precision="fp32")
    np.testing.assert_array_equal(loaded.predict_proba(X), fitted.predict_proba(X))
    assert loaded.predict(X).tolist() == fitted.predict(X).tolist()


def test_validation_and_pipelines(images: tuple[list[bytes], list[str]], tmp_path: Path) -> None:
    X, y = images
    files = [tmp_path / f"{index}.png" for index in range(len(X))]
    for file, content in zip(files, X, strict=True):
        file.write_bytes(content)
    by_name = make_pipeline(FunctionTransformer(lambda names: [tmp_path / name for name in names]), clone(small()))
    scores = cross_val_score(by_name, [file.name for file in files], y, cv=2)
    assert scores.tolist() == cross_val_score(small(), X, y, cv=2).tolist()


def test_batches_of_another_size_change_nothing(images: tuple[list[bytes], list[str]]) -> None:
    X, y = images
    fitted = small().fit(X, y)
    one_by_one = np.concatenate([fitted.predict_proba([one]) for one in X])
    np.testing.assert_allclose(one_by_one, fitted.predict_proba(X), atol=1e-6)


def test_it_is_an_arm_of_a_study(class_folder: Path, tmp_path: Path) -> None:
    """On a study's training images in its order, with its one rate, it gives the study's own test predictions."""
    recipe = (
        'model.backbone = "timm/test_resnet"\nmodel.weights = "random"\nimages.size = 16\ntrain.epochs = 2\n'
        'train.batch_size = 8\ntrain.precision = "fp32"\nsearch.learning_rates = [1e-2]\ndata.validation = 9\n'
        'arms.classifier.train = "all"\n'
    )
    (tmp_path / "one.toml").write_text(recipe)
    resolved = thaw.load_recipe(str(tmp_path / "one.toml"), str(class_folder))
    thaw.run_study(resolved, tmp_path / "run")
    from thaw.compute.device import choose_compute
    from thaw.data.load import load_dataset
    from thaw.progress import Clock

    dataset = load_dataset(resolved, choose_compute("cpu", "fp32"), Clock())
    source, splits = dataset.source, dataset.splits
    trained_on = np.union1d(splits.train, splits.validation)
    fitted = small(epochs=2, batch_size=8).fit([source.picture(row) for row in trained_on], source.labels[trained_on])
    found = fitted.predict_proba([source.picture(row) for row in splits.test])
    rows = {
        row["id"]: (row["p_left"], row["p_right"]) for row in thaw.read_run(tmp_path / "run").predictions.to_pylist()
    }
    np.testing.assert_allclose(found, [rows[source.ids[row]] for row in splits.test], atol=1e-4)


def test_what_cannot_be_fitted(images: tuple[list[bytes], list[str]]) -> None:
    X, y = images
    with pytest.raises(ValueError, match="y has one class"):
        small().fit(X, ["left"] * len(X))
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        small().fit(X, y[:-1])
    with pytest.raises(DataError, match="image 3 is not an image"):
        small().fit([*X[:3], b"no picture", *X[4:]], y)
    for label in (None, np.nan, ""):
        with pytest.raises(ValueError, match="missing or empty"):
            small().fit(X, np.array([label, *y[1:]], dtype=object))
    with pytest.raises(ValueError, match="two images or more of some class"):
        small().fit([X[0], X[-1]], ["left", "right"])
    for share in (-1, 1, 200):
        with pytest.raises(ValueError, match=f"validation={share} is not a fraction"):
            small(validation=share).fit(X, y)
    with pytest.raises(thaw.ThawError, match=r"train.epochs = 0"):
        small(epochs=0).fit(X, y)
    for seed in (-1, 2**80):
        with pytest.raises(ValueError, match=r"between 0 and 2\*\*32 - 1"):
            small(random_state=seed).fit(X, y)
    with pytest.raises(thaw.ThawError, match="did you mean 'policy'"):
        small(settings={"augment.polcy": "flip"}).fit(X, y)


def test_settings_are_taken_as_numpy_and_tables_have_them(images: tuple[list[bytes], list[str]]) -> None:
    X, y = images
    fitted = small(epochs=np.int64(2), batch_size=np.int32(8), settings={"augment": {"policy": "flip"}}).fit(X, y)
    assert len(fitted.epochs_) == 2
    assert 'policy = "flip"' in fitted.bundle_.config["recipe"]


def small(**changes: Any) -> thaw.Classifier:
    return thaw.Classifier(**(TINY | changes))


def test_images_in_the_columns_of_a_table(images: tuple[list[bytes], list[str]], tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    X, y = images
    opened = [Image.open(io.BytesIO(one)) for one in X]
    files = [str(tmp_path / f"{index}.png") for index in range(len(X))]
    for file, content in zip(files, X, strict=True):
        Path(file).write_bytes(content)
    fitted = small().fit(X, y)
    expected = fitted.predict_proba(X)
    for column in (files, list(map(Path, files)), opened, X):
        for table in (pandas.DataFrame({"image": column}), pandas.Series(column, index=range(5, 5 + len(X)))):
            np.testing.assert_array_equal(small().fit(table, y).predict_proba(table), expected)
            np.testing.assert_array_equal(fitted.predict_proba(table.to_numpy()), expected)
    assert len(cross_val_score(small(), pandas.DataFrame({"image": files}), y, cv=2)) == 2
    with pytest.raises(ValueError, match="X has 2 columns; give the one with the images alone"):
        small().fit(pandas.DataFrame({"image": files, "age": range(len(X))}), y)
    numbers = np.random.default_rng(0).random((24, 16))
    one, other = small().fit(pandas.DataFrame(numbers), y), small().fit(numbers, y)
    np.testing.assert_array_equal(one.predict_proba(pandas.DataFrame(numbers)), other.predict_proba(numbers))


def test_arrays_of_grey_images_and_of_other_numbers() -> None:
    grey, y = np.random.default_rng(0).integers(0, 256, (24, 28, 28), dtype=np.uint8), [0, 1] * 12
    colour = np.stack([grey] * 3, -1)
    expected = small().fit(list(grey), y).predict_proba(list(grey))
    twelve = grey.astype(np.uint16) * 16  # up to 4,080 of 4,095
    forms = [grey, grey[..., None], colour, colour / 255, grey / 255, list(grey / 255), grey.astype(np.int64)]
    forms += [torch.from_numpy(grey), torch.from_numpy(grey)[:, None], torch.from_numpy(grey / 255)]
    for form in forms:
        np.testing.assert_array_equal(small().fit(form, y).predict_proba(form), expected)
    fitted = small().fit(twelve, y)
    assert fitted.range_ == (0, 4095)
    np.testing.assert_allclose(fitted.predict_proba(twelve[:1]), fitted.predict_proba(twelve)[:1], atol=1e-6)
    dark = (twelve // 16).clip(max=15)  # by the scale that fit chose, not by its own
    np.testing.assert_allclose(fitted.predict_proba(dark), fitted.predict_proba(dark // 16), atol=0.05)
    with pytest.raises(ValueError, match="fit saw images; give images"):
        fitted.predict([[1, 2], [3, 4]])
    with pytest.raises(ValueError, match="is one image; give a list of images"):
        fitted.predict(colour[0])


class Pairs(torch.utils.data.Dataset[Any]):
    """Images and labels as torchvision's datasets give them: an image, and the number of its class."""

    def __init__(self, images: np.ndarray[Any, Any], labels: list[int]) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[Any, int]:
        return Image.fromarray(self.images[row]), self.labels[row]


def test_images_in_every_layout_are_the_same_images() -> None:
    """Against a list of the images themselves."""
    colour = np.random.default_rng(0).integers(0, 255, (5, 16, 20, 3), dtype=np.uint8)
    grey = colour[..., 0]
    layouts: list[tuple[Any, np.ndarray[Any, Any]]] = [
        (colour, colour),
        (colour.transpose(0, 3, 1, 2), colour),
        (torch.from_numpy(colour).permute(0, 3, 1, 2), colour),
        (torch.from_numpy(colour), colour),
        (grey, grey),
        (grey[..., None], grey),
        (grey[:, None], grey),
        (torch.from_numpy(grey)[:, None], grey),
        (datasets.Dataset.from_dict({"image": list(map(Image.fromarray, colour))})["image"], colour),
        (Pairs(colour, [0] * 5), colour),
    ]
    for given, expected in layouts:
        images = _images_in(given)
        assert images is not None
        assert np.array_equal(np.stack([np.asarray(image) for image in images]), expected)


@pytest.mark.parametrize(
    ("shape", "why"), [((5, 3, 16, 3), "channels may come first or last"), ((5, 16, 20, 7), "no dimension can be")]
)
def test_a_layout_that_is_not_clear_is_refused(shape: tuple[int, ...], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        _images_in(np.zeros(shape, np.uint8))


def test_a_torch_dataset_brings_its_labels() -> None:
    images = np.random.default_rng(0).integers(0, 255, (12, 32, 32, 3), dtype=np.uint8)
    images[::2] //= 4
    pairs = Pairs(images, [row % 2 for row in range(12)])
    one, other = thaw.Classifier(**TINY).fit(pairs), thaw.Classifier(**TINY).fit(list(images), pairs.labels)
    assert np.array_equal(one.predict_proba(pairs), other.predict_proba(list(images)))
    with pytest.raises(ValueError, match="requires y"):
        thaw.Classifier(**TINY).fit(list(images))
