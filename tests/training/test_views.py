"""Views: the losses of a plain loop that draws them on the fly, whatever is cached, and the same wherever drawn."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.transforms import v2

import thaw
from helpers.images import make_class_folders
from helpers.small_bundle import small_bundle
from helpers.studies import SETTLED
from thaw.compute.batches import shuffled
from thaw.compute.device import Compute
from thaw.data.dataset import Dataset
from thaw.data.load import load_dataset
from thaw.data.splits import Splits
from thaw.data.views import add_views, pictures_of, view_rows
from thaw.export.export import export_bundle
from thaw.images.views import draw_view, make_policy, view_seed
from thaw.nets.backbones import build_backbone
from thaw.progress import Clock
from thaw.recipe import Augment, Recipe, load_recipe
from thaw.study import plan_recipe
from thaw.training.network import Setup, epoch_seed
from thaw.training.prepare import prepare
from thaw.training.specs import resolve_arm
from thaw.training.train import train

FP32 = Compute(torch.device("cpu"), "fp32")
EPOCHS = 3
RATES = {"head": 3e-2, "everything": 1e-3}


def make_recipe(folder: Path, **augment: object) -> Recipe:
    settings = (
        *("images.size=32", "images.resize=squash", "model.backbone=timm/test_resnet", "model.weights=random"),
        *('arms.last-stage.train="head"', f"train.epochs={EPOCHS}", "train.batch_size=16", "train.precision=fp32"),
        *("train.optimizer=adam", "train.schedule=constant", "train.warmup=0", "data.test=20"),
        *(f"augment.{key}={value}" for key, value in {"test_views": 1, **augment}.items()),
    )
    return load_recipe("photos", str(folder), (*SETTLED, *settings))


def load(recipe: Recipe) -> Dataset:
    dataset = load_dataset(recipe, FP32, Clock())
    return add_views(dataset, recipe.augment, pictures_of(dataset.source, dataset.preprocessing, recipe.images.decode))


def on_the_fly(recipe: Recipe, dataset: Dataset, row: int, number: int) -> torch.Tensor:
    """One view as a plain loop draws it, (3, 32, 32) normalised."""
    resample = v2.InterpolationMode(dataset.preprocessing.interpolation)
    grey = [round(255 * value) for value in dataset.preprocessing.mean]
    draws = {
        "flip": [v2.Resize((32, 32), resample), v2.RandomHorizontalFlip()],
        "crop": [v2.RandomResizedCrop(32, (0.35, 1), interpolation=resample), v2.RandomHorizontalFlip()],
    }
    draws["strong"] = [*draws["crop"], v2.TrivialAugmentWide(), v2.PILToTensor(), v2.RandomErasing(0.1, value=grey)]
    image = Image.open(Path(recipe.data.source) / dataset.source.ids[row]).convert("RGB")
    with torch.random.fork_rng():
        torch.manual_seed(view_seed(recipe.augment.seed, dataset.source.digests[row], number))
        image = v2.Compose(draws[recipe.augment.policy])(image)
    to_float = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    return v2.functional.normalize(to_float(image), dataset.preprocessing.mean, dataset.preprocessing.std)


def plain_losses(recipe: Recipe, dataset: Dataset, arm: str, start: dict[str, torch.Tensor]) -> list[float]:
    """The mean loss of each epoch, as a plain loop trains from a start."""
    model, head = build_backbone("timm/test_resnet", "random", 2, seed=0)
    model.load_state_dict(start)
    model.train(arm == "everything")
    trained = list((model if arm == "everything" else model.get_submodule(head)).parameters())
    optimizer, labels = torch.optim.Adam(trained, RATES[arm]), torch.from_numpy(dataset.source.labels)
    means = []
    for epoch in range(EPOCHS):
        torch.manual_seed(epoch_seed(0, epoch))
        total, rows = 0.0, dataset.splits.train
        for batch in shuffled(rows, 16, 0, epoch):
            number = epoch % recipe.augment.views
            images = torch.stack([on_the_fly(recipe, dataset, int(row), number) for row in batch])
            loss = nn.functional.cross_entropy(model(images), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch)
        means.append(total / len(rows))
    return means


@pytest.mark.parametrize("arm", ["head", "everything"])
@pytest.mark.parametrize(("policy", "views"), [("flip", EPOCHS), ("crop", EPOCHS), ("strong", EPOCHS), ("crop", 2)])
def test_losses_are_those_of_a_loop_that_draws_on_the_fly(
    class_folder: Path, arm: str, policy: str, views: int
) -> None:
    recipe = make_recipe(class_folder, policy=policy, views=views, seed=3)
    dataset = load(recipe)
    spec = resolve_arm(arm, recipe.arms[arm], recipe)
    spec = spec.model_copy(update={"training": spec.training.model_copy(update={"refit": "train"})})
    network = prepare(spec, 0, dataset, FP32)
    assert bool(network.facts.frontier.nodes) == (arm == "head")
    setup = Setup(network, spec, 0, dataset.labels(FP32.device), dataset.splits, FP32)

    start = {name: value.clone() for name, value in network.model.state_dict().items()}
    expected = plain_losses(recipe, dataset, arm, start)
    found = [epoch.loss for epoch in train(setup, RATES[arm], 0.0).epochs]
    assert found == pytest.approx(expected, abs=1e-5)
    others = recipe.model_copy(update={"augment": recipe.augment.model_copy(update={"seed": 4})})
    assert np.abs(np.array(plain_losses(others, dataset, arm, start)) - expected).max() > 1e-4


def test_the_network_runs_whole_with_the_same_losses_where_views_do_not_fit(
    class_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe(class_folder, policy="crop", views=2)
    dataset, spec = load(recipe), resolve_arm("head", recipe.arms["head"], recipe)
    losses = []
    for fits in (True, False):
        if not fits:
            monkeypatch.setattr("thaw.training.activations.cache_limit", lambda: 10)
        network = prepare(spec, 0, dataset, FP32)
        setup = Setup(network, spec, 0, dataset.labels(FP32.device), dataset.splits, FP32)
        assert bool(network.facts.frontier.nodes) == fits
        losses.append([epoch.loss for epoch in train(setup, RATES["head"], 0.0).epochs])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_a_view_depends_on_its_image_number_and_seed_alone(
    class_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not on which images there are, in which order, nor on how many views; and nobody's random numbers move."""

    def views_by_digest(folder: Path, **augment: object) -> list[dict[str, np.ndarray]]:
        monkeypatch.setenv("THAW_CACHE", str(tmp_path / str(len(list(tmp_path.iterdir())))))
        dataset = load(make_recipe(folder, policy="strong", **augment))
        digests = dataset.source.digests
        return [{digests[row]: view.pixels.image(int(row)) for row in view.rows} for view in dataset.views]

    state = torch.get_rng_state()
    few = views_by_digest(class_folder, views=2)
    assert torch.equal(torch.get_rng_state(), state)
    many = views_by_digest(make_class_folders(tmp_path / "more", 90), views=10)
    assert len(many) == 10
    for one, other in zip(few, many, strict=False):
        common = one.keys() & other.keys()
        assert len(common) > 20
        assert all(np.array_equal(one[digest], other[digest]) for digest in common)
    others = views_by_digest(class_folder, views=2, seed=1)
    pairs = [(few[0], few[1]), (few[0], others[0])]
    assert all(any(not np.array_equal(one[key], other[key]) for key in one) for one, other in pairs)


def test_more_views_reuse_the_first(class_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    monkeypatch.setattr("thaw.data.views.draw_view", lambda *given: drawn.append(given[2]) or draw_view(*given))
    trained = len(load(make_recipe(class_folder, policy="crop", views=8)).views[0].rows)
    assert len(drawn) == 8 * trained
    load(make_recipe(class_folder, policy="crop", views=10))
    assert len(drawn) == 10 * trained


def test_no_test_image_is_drawn_but_mirrored_where_that_is_averaged() -> None:
    splits = Splits(np.arange(0, 10), np.arange(10, 14), np.arange(14, 20), {})

    def lengths(**augment: object) -> list[int]:
        return [len(rows) for rows in view_rows(Augment.model_validate(augment), splits)]

    assert lengths() == []
    assert lengths(test_views=2) == [10]
    assert lengths(policy="flip", views=9) == [14]
    assert lengths(policy="flip", test_views=2) == [20]
    assert lengths(policy="crop", views=3) == [14, 14, 14]
    assert lengths(policy="strong", views=1, test_views=2) == [10, 14]


def test_a_fifth_of_the_area_is_never_cut_out(class_folder: Path) -> None:
    """A view of a ramp shows at least 35% of it, the least that the policy cuts out."""
    ramp = Image.fromarray(np.broadcast_to(np.arange(200, dtype=np.uint8)[:, None, None], (200, 200, 3)))
    preprocessing = load(make_recipe(class_folder)).preprocessing
    spans = [int(np.ptp(draw_view(ramp, make_policy("crop", preprocessing), seed))) for seed in range(60)]
    assert min(spans) > 200 * np.sqrt(0.35 * 3 / 4) * 0.9
    assert max(spans) > 180


@pytest.mark.parametrize("policy", ["none", "flip", "crop"])
def test_two_test_views_are_the_mean_of_an_image_and_its_mirror_image(class_folder: Path, policy: str) -> None:
    recipe = make_recipe(class_folder, policy=policy, views=2, test_views=2)
    dataset, spec = load(recipe), resolve_arm("head", recipe.arms["head"], recipe)
    network = prepare(spec, 0, dataset, FP32)
    setup = Setup(network, spec, 0, dataset.labels(FP32.device), dataset.splits, FP32, tested=dataset.tested)
    rows = dataset.splits.test
    pixels = torch.from_numpy(np.stack([dataset.pixels.image(int(row)) for row in rows])).permute(0, 3, 1, 2)
    images = v2.functional.normalize(pixels / 255, dataset.preprocessing.mean, dataset.preprocessing.std)
    model = network.model.eval()
    with torch.inference_mode():
        expected = (model(images) + model(images.flip(3))) / 2
    torch.testing.assert_close(setup.test(rows), expected, rtol=1e-4, atol=1e-5)
    alone = replace(setup, tested=(0,)).test(rows)
    assert torch.equal(alone, setup.evaluate(rows))
    assert not torch.allclose(alone, expected, atol=1e-4)


def test_a_bundle_averages_the_mirror_image_and_so_does_its_export(class_folder: Path, tmp_path: Path) -> None:
    folder = small_bundle(tmp_path / "both", test_views=2)
    both, alone = thaw.load(folder, "cpu", "fp32"), thaw.load(small_bundle(tmp_path / "one"), "cpu", "fp32")
    images = [np.array(Image.open(path)) for path in sorted(class_folder.rglob("*.png"))[:5]]
    mirrored = [np.ascontiguousarray(image[:, ::-1]) for image in images]
    logs = [np.log(alone.predict_proba(given)) for given in (images, mirrored)]
    expected = np.exp(sum(logs) / 2)
    found = both.predict_proba(images)
    np.testing.assert_allclose(found, expected / expected.sum(1, keepdims=True), atol=1e-5)
    assert not np.allclose(found, alone.predict_proba(images), atol=1e-4)
    made = export_bundle(folder, "torch", tmp_path / "both.pt2", check=class_folder)
    assert made.metadata["test_views"] == 2
    assert made.metadata["check"]["largest_difference"] < 1e-5


def test_the_plan_counts_views(class_folder: Path) -> None:
    recipe = make_recipe(class_folder, policy="crop", views=5, test_views=2)
    plan, images, _ = plan_recipe(recipe)
    dataset = load(recipe)
    assert plan.views == dataset.rows() - images == 5 * len(dataset.views[1].rows) + len(dataset.views[0].rows)
    assert plan.view_bytes == sum(view.pixels.arrays[0].nbytes for view in dataset.views[1:])
