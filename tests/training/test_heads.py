"""Fitted heads, against scikit-learn and loops written out; and a probe that never sees a validation label."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.neighbors import NearestCentroid
from sklearn.preprocessing import StandardScaler, normalize
from torch import Tensor, nn

from helpers.records import FACTS
from helpers.small_bundle import BACKBONE, small_config
from helpers.studies import SETTLED, break_off, metrics_of, timeless
from thaw.arm import train_trial
from thaw.bundle.load import load
from thaw.bundle.save import save_bundle
from thaw.classifier import Classifier
from thaw.compute.batches import Inputs
from thaw.compute.device import Compute
from thaw.data.dataset import Dataset
from thaw.data.load import load_dataset
from thaw.data.splits import Splits
from thaw.data.views import add_views, pictures_of
from thaw.errors import ModelError, RecipeError
from thaw.export.export import export_bundle
from thaw.nets.backbones import build_backbone
from thaw.nets.heads import HeadForm, NearestMeans, Neighbours, install_head
from thaw.plan import Trial, make_plan
from thaw.progress import Clock
from thaw.recipe import load_recipe
from thaw.run.metrics import read_metrics
from thaw.study import run_study
from thaw.training import heads
from thaw.training.heads import VALUES, fit_head, fit_probe
from thaw.training.logistic import as_layer, pose, solve
from thaw.training.network import Network, Setup
from thaw.training.prepare import prepare
from thaw.training.probes import probe_head
from thaw.training.specs import resolve_arm

CPU = Compute(torch.device("cpu"), "fp32")
IMAGES, WIDTH = 150, 12
QUICK = (
    *SETTLED,
    *("images.size=32", "train.precision=fp32", "data.validation=12", "data.test=9", "train.batch_size=16"),
)


def some_features(images: int, width: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Correlated features, not centred, of classes that overlap and are not of the same size."""
    random = np.random.default_rng(0)
    labels = np.minimum(random.integers(0, classes + 1, images), classes - 1)
    labels[:classes] = np.arange(classes)
    drawn = random.normal(size=(classes, width))[labels] + 1.5 * random.normal(size=(images, width))
    return (drawn @ random.normal(size=(width, width)) + 3).astype(np.float32), labels


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("images", "width", "classes"), [(150, 12, 3), (40, 70, 3), (150, 12, 2)])
def test_a_regression_is_scikit_learns(images: int, width: int, classes: int, weighted: bool) -> None:
    features, labels = some_features(images, width, classes)
    weights = images / (classes * np.bincount(labels)) if weighted else np.ones(classes)
    problem = pose(features, labels, weights[labels], torch.device("cpu"))
    scaler = StandardScaler().fit(features.astype(np.float64))
    start = None
    for penalty in (1.0, 0.03):
        start = solve(problem, penalty, start)
        weight, bias = (value.numpy() for value in as_layer(problem, start))
        # with two classes scikit-learn fits one vector, the difference of two that each have half of it
        strength = (2 if classes == 2 else 1) / (penalty * images)
        settings = {"C": strength, "tol": 1e-10, "max_iter": 10_000, "solver": "newton-cholesky"}
        expected = LogisticRegression(class_weight="balanced" if weighted else None, **settings)
        expected.fit(scaler.transform(features.astype(np.float64)), labels)
        found, known = weight * scaler.scale_, expected.coef_
        found = found[1:] - found[:1] if classes == 2 else found
        np.testing.assert_allclose(found, known, atol=2e-6)
        logits = features @ weight.T + bias
        theirs = expected.predict_proba(scaler.transform(features.astype(np.float64)))
        np.testing.assert_allclose(softmax(logits, 1), theirs, atol=1e-6)
        loss = -log_softmax(logits, 1)[np.arange(images), labels].mean()
        assert loss == pytest.approx(log_loss(labels, theirs), abs=1e-7)


class Headed(nn.Module):
    """Features (n, width), as they are given, to logits."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(WIDTH, classes)

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.head(features)
        return logits


def headed(*settings: str, kind: str = "linear") -> tuple[Setup, np.ndarray, np.ndarray]:
    """A network whose input is what enters its head, with its features and labels."""
    features, labels = some_features(IMAGES, WIDTH, 3)
    recipe = load_recipe("photos", "pictures", (*SETTLED, f"arms.head.head={kind}", *settings))
    model = Headed(3)
    install_head(model, "head", HeadForm(kind=kind))  # type: ignore[arg-type]
    inputs = Inputs((features,), CPU.device)
    network = Network(model, None, model, model, inputs, "features", (), (), FACTS)
    rows = np.arange(IMAGES)
    splits = Splits(rows[:90], rows[90:130], rows[130:], {})
    spec = resolve_arm("head", recipe.arms["head"], recipe)
    return Setup(network, spec, 0, torch.from_numpy(labels), splits, CPU), features, labels


@torch.no_grad()
def logits_of(setup: Setup, features: np.ndarray) -> np.ndarray:
    found: np.ndarray = setup.network.model(torch.from_numpy(features)).numpy()
    return found


@pytest.mark.parametrize("refit", ["train", "train+validation"])
def test_the_penalty_with_the_lowest_validation_loss_is_chosen_and_fitted(refit: str) -> None:
    setup, features, labels = headed(
        f"train.refit={refit}", "train.class_weights=balanced", "train.label_smoothing=0.1"
    )
    fit = fit_head(setup, "linear")
    train, validation = setup.splits.train, setup.splits.validation

    def fitted(rows: np.ndarray, penalty: float) -> np.ndarray:
        scaler = StandardScaler().fit(features[rows].astype(np.float64))
        model = LogisticRegression(
            C=1 / (penalty * len(rows)), class_weight="balanced", tol=1e-8, max_iter=10_000, solver="newton-cholesky"
        )
        model.fit(scaler.transform(features[rows].astype(np.float64)), labels[rows])
        found: np.ndarray = model.predict_proba(scaler.transform(features.astype(np.float64)))
        return found

    losses = [log_loss(labels[validation], fitted(train, value)[validation]) for value in VALUES["linear"]]
    tried = [attempt.value for attempt in fit.attempts]
    assert tried == VALUES["linear"][: len(tried)]
    np.testing.assert_allclose([attempt.loss for attempt in fit.attempts], losses[: len(tried)], atol=1e-4)
    assert fit.value == VALUES["linear"][int(np.argmin(losses))]
    assert len(tried) == np.argmin(losses) + 3
    final = train if refit == "train" else np.concatenate([train, validation])
    expected = fitted(final, fit.value)
    np.testing.assert_allclose(softmax(logits_of(setup, features), 1), expected, atol=1e-5)
    assert fit.images == len(final)
    assert fit.accuracy == pytest.approx((expected[final].argmax(1) == labels[final]).mean())


def test_prototypes_are_scikit_learns_nearest_centroids() -> None:
    setup, features, labels = headed("train.refit=train", kind="prototype")
    fit = fit_head(setup, "prototype")
    unit, train = normalize(features), setup.splits.train
    expected = NearestCentroid().fit(unit[train], labels[train])
    logits = logits_of(setup, features)
    np.testing.assert_array_equal(logits.argmax(1), expected.predict(unit))
    distances = ((unit[:, None] - expected.centroids_[None]) ** 2).sum(2)
    np.testing.assert_allclose(softmax(logits, 1), softmax(-fit.value / 2 * distances, 1), atol=1e-5)
    validation = setup.splits.validation
    losses = [log_loss(labels[validation], softmax(-v / 2 * distances[validation], 1)) for v in VALUES["prototype"]]
    assert fit.value == VALUES["prototype"][int(np.argmin(losses))]


def test_neighbours_are_those_of_a_loop() -> None:
    setup, features, labels = headed("train.refit=train", "train.class_weights=balanced", kind="knn")
    fit = fit_head(setup, "knn")
    unit, train = normalize(features), setup.splits.train
    weights = len(train) / (3 * np.bincount(labels[train]))
    expected = []
    for one in unit:
        cosines = unit[train] @ one
        votes = np.zeros(3)
        for near in np.argsort(-cosines)[: int(fit.value)]:
            label = labels[train[near]]
            votes[label] += np.exp(cosines[near] / 0.07) * weights[label]
        expected.append((fit.value * votes / votes.sum() + 1 / 3) / (fit.value + 1))
    np.testing.assert_allclose(softmax(logits_of(setup, features), 1), expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["linear", "prototype", "knn"])
def test_a_class_without_training_images_is_never_the_answer(kind: str) -> None:
    setup, features, labels = headed("train.refit=train", kind=kind)
    none_of = setup.splits.train[labels[setup.splits.train] != 1]
    setup = replace(setup, splits=replace(setup.splits, train=none_of))
    fit_head(setup, kind)  # type: ignore[arg-type]
    logits = logits_of(setup, features)
    assert np.isfinite(logits).all()
    assert not (logits[none_of].argmax(1) == 1).any()


def test_mirror_images_are_fitted_to_but_not_chosen_by(class_folder: Path) -> None:
    fits = [fit_of(class_folder, "linear", f"augment.policy={policy}")[1] for policy in ("none", "flip")]
    assert fits[1].images == 2 * fits[0].images
    assert fits[1].attempts[0].loss != fits[0].attempts[0].loss


def fit_of(folder: Path, kind: str, *settings: str) -> tuple:
    recipe = load_recipe("photos", str(folder), (*QUICK, f"arms.head.head={kind}", *settings))
    dataset = load_dataset(recipe, CPU, Clock())
    dataset = add_views(dataset, recipe.augment, pictures_of(dataset.source, dataset.preprocessing, "exact"))
    spec = resolve_arm("head", recipe.arms["head"], recipe)
    trained = train_trial(Trial(spec=spec, seed=0, saved=False, prefixes=[]), dataset, CPU)
    assert trained.search is None
    assert trained.training.epochs == []
    return trained, trained.fit, dataset


def test_a_probe_never_sees_a_validation_image(class_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = (*QUICK, "arms.everything.probe=true", "train.refit=train+validation")
    recipe = load_recipe("photos", str(class_folder), (*SETTLED, *settings))
    dataset = load_dataset(recipe, CPU, Clock())
    validation, seen = dataset.splits.validation, []
    whole = heads._known

    def known(setup: Setup, rows: np.ndarray) -> heads.Known:
        seen.append(rows)
        return whole(setup, rows)

    monkeypatch.setattr(heads, "_known", known)
    found = []
    for wrong in (False, True):
        labels = dataset.source.labels.copy()
        if wrong:
            labels[validation] = 1 - labels[validation]
        other = Dataset(**{**vars(dataset), "source": replace(dataset.source, labels=labels)})
        found.append(probe_of(recipe, other))
    assert seen
    assert not any(np.isin(rows, validation).any() for rows in seen)
    (one, first), (two, second) = found
    assert first.model_dump(exclude={"seconds"}) == second.model_dump(exclude={"seconds"})
    assert all(torch.equal(one[name], two[name]) for name in one)


def probe_of(recipe, dataset: Dataset, work: Path | None = None) -> tuple:  # type: ignore[no-untyped-def]
    spec = resolve_arm("everything", recipe.arms["everything"], recipe)
    network = prepare(spec, 0, dataset, CPU)
    setup = Setup(network, spec, 0, dataset.labels(CPU.device), dataset.splits, CPU, work)
    fit = probe_head(setup, dataset)
    return network.model.get_submodule(network.facts.head).state_dict(), fit


def test_a_probe_is_kept_and_found_again(class_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe("photos", str(class_folder), (*QUICK, "arms.everything.probe=true"))
    dataset = load_dataset(recipe, CPU, Clock())
    (one, first), (fresh, _) = probe_of(recipe, dataset, tmp_path), probe_of(recipe, dataset)
    monkeypatch.setattr("thaw.training.probes.fit_probe", None)
    two, second = probe_of(recipe, dataset, tmp_path)
    assert first == second
    assert all(torch.equal(one[name], two[name]) and torch.equal(one[name], fresh[name]) for name in one)


def test_every_fold_has_every_class() -> None:
    labels = np.repeat([0, 1, 2], [50, 20, 7])
    fold = heads._folds(labels)
    assert [np.bincount(fold[labels == code]).tolist() for code in (0, 1)] == [[10] * 5, [4] * 5]
    assert np.bincount(fold[labels == 2], minlength=5).min() >= 1
    setup, _, _ = headed()
    assert fit_probe(setup).images == len(setup.splits.train)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["linear", "prototype", "knn"])
def test_a_bundle_of_a_fitted_head_is_the_trained_network(kind: str, class_folder: Path, tmp_path: Path) -> None:
    recipe = load_recipe(
        "photos",
        str(class_folder),
        (
            *QUICK,
            "train.refit=train",
            f"arms.head.head={kind}",
            "augment.policy=none",
            "arms.last-stage=",
            "arms.everything=",
        ),
    )
    run = tmp_path / "run"
    run_study(recipe, run)
    metrics = read_metrics(run)
    assert metrics.arms["head"].learning_rate is None
    assert metrics.arms["head"].fit is not None
    assert metrics.arms["head"].fit.kind == kind
    images = metrics.splits["train"]
    trained = {"linear": 2 * 1281, "prototype": 2 * 1281, "knn": images * 1280}[kind]
    assert (metrics.arms["head"].parameters.trainable, metrics.arms["head"].fit.images) == (trained, images)
    bundle = load(run / "models" / "head", "cpu", "fp32")
    head = bundle.model.get_submodule(metrics.model.head)
    assert type(head) is {"linear": nn.Linear, "prototype": NearestMeans, "knn": Neighbours}[kind]
    images = sorted(class_folder.rglob("*.png"))
    rows = [row for row in pq.read_table(run / "predictions.parquet").to_pylist() if row["split"] == "test"]
    assert bundle.predict([class_folder / row["id"] for row in rows]).tolist() == [row["predicted"] for row in rows]
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "Fitted heads" in page
    assert "Learning-rate search" not in page
    assert "fitted to the features" in (run / "models" / "head" / "README.md").read_text(encoding="utf-8")
    again = tmp_path / "again"
    save_bundle(again, bundle.model, {k: v for k, v in bundle.config.items() if k not in ("sha256", "format")})
    assert json.loads((again / "config.json").read_text())["head"] == bundle.config["head"]
    np.testing.assert_array_equal(load(again, "cpu", "fp32").predict_proba(images), bundle.predict_proba(images))


@pytest.mark.slow
def test_a_stopped_study_goes_on_to_the_same(
    class_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is stopped in the first epoch of the arm with a probe, then in the fit of the head, and once not at all."""
    settings = ("arms.last-stage=", "arms.everything.probe=true", "arms.head.head=linear")
    recipe = load_recipe(
        "photos",
        str(class_folder),
        (*QUICK, *settings, "search.steps=1", "train.epochs=2", "arms.everything.train=norm"),
    )
    run_study(recipe, tmp_path / "whole")
    break_off(monkeypatch, at=2)
    with pytest.raises(KeyboardInterrupt):
        run_study(recipe, tmp_path / "broken")
    with monkeypatch.context() as patch:
        patch.setattr("thaw.training.heads.as_layer", _stop)
        patch.setattr("thaw.training.probes.fit_probe", None)  # it is found
        with pytest.raises(KeyboardInterrupt):
            run_study(recipe, tmp_path / "broken")
    run_study(recipe, tmp_path / "broken")
    whole, broken = (timeless(metrics_of(tmp_path / name)) for name in ("whole", "broken"))
    assert whole == broken
    assert whole["arms"]["everything"]["probe"]["kind"] == "linear"


def _stop(*_: object) -> None:
    raise KeyboardInterrupt


def test_heads_that_cannot_be_are_refused(class_folder: Path) -> None:
    for setting in ('arms.head.train="all"', "arms.head.probe=true"):
        with pytest.raises(RecipeError, match=r'set arms\.head\.train = "head" without probe'):
            load_recipe("photos", "pictures", (*SETTLED, "arms.head.head=linear", setting))
    backbone = ("model.backbone=torchvision/squeezenet1_1", "model.weights=random", "arms.last-stage=")
    for setting in ("arms.head.head=linear", "arms.everything.probe=true"):
        recipe = load_recipe("photos", str(class_folder), (*QUICK, *backbone, setting))
        with pytest.raises(ModelError, match="needs a backbone that ends in one linear layer"):
            make_plan(recipe, 2, 60, 32, CPU)


def test_the_classifier_fits_its_head(class_folder: Path) -> None:
    images = sorted(class_folder.rglob("*.png"))
    labels = [path.parent.name for path in images]
    fitted = Classifier(size=32, precision="fp32", settings={"arms.classifier.head": "linear"}).fit(images, labels)
    assert fitted.learning_rate_ is None
    assert fitted.head_["kind"] == "linear"
    assert fitted.score(images, labels) > 0.8


@pytest.mark.parametrize("kind", ["prototype", "knn"])
def test_exports_of_a_fitted_head_agree(kind: str, class_folder: Path, tmp_path: Path) -> None:
    random = torch.Generator().manual_seed(0)
    model, head = build_backbone(BACKBONE, "random", 2, seed=3)
    install_head(model, head, HeadForm(kind=kind, images=30, nearest=5))  # type: ignore[arg-type]
    new = model.get_submodule(head)
    with torch.no_grad():
        for parameter in new.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=random))
    if isinstance(new, Neighbours):
        memory = nn.functional.normalize(new.memory, dim=1)
        new.remember(memory, torch.arange(30) % 2, torch.ones(2))
    save_bundle(tmp_path / "bundle", model, small_config())
    for to in ("onnx", "torch"):
        assert export_bundle(tmp_path / "bundle", to, check=class_folder).path.is_file()
