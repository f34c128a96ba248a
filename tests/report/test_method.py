"""The report says what a study did, whatever its recipe says."""

from pathlib import Path

import pytest

from thaw.recipe import Augment, load_recipe
from thaw.report.method import training, views
from thaw.run.read import read_run


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            (),
            "Each of the learning rates 1e-5, 1e-4 and 1e-3 is tried for 15 steps of 512 images on train, and the "
            "best accuracy on validation wins. Then the arm starts again and trains for 3 epochs on train and "
            "validation together with Adam. The test set is scored once, at the end.",
        ),
        (("search.metric=log_loss",), "the best log likelihood on validation wins"),
        (("search.ties=noise",), "of these the lowest loss wins, then the rate in the middle"),
        (("search.max_steps=60",), "tried again for twice the steps, up to 60"),
        (("search.schedule=train", "train.schedule=cosine"), "Within an attempt the rate rises and falls"),
        (("search.method=halving",), "by accuracy on validation (successive halving)"),
        (
            ("train.clip=1.0", "train.sampling=balanced"),
            "each class drawn as often as the others and gradients",
        ),
        (("train.rehearse=true",), "Before that it trains in the same way on train alone"),
        (("train.keep=average",), "The mean of the weights over the last quarter of the epochs is kept."),
        (("train.refit=train", "train.patience=2"), "It stops when 2 epochs in a row bring nothing better"),
        (("train.budget=own", "arms.scratch.training.epochs=9"), "Settings of their own: scratch: epochs = 9."),
        (("augment.test_views=2",), "by the mean of the logits of each image and its mirror image"),
    ],
)
def test_what_a_recipe_asks_for_is_said(settings: tuple[str, ...], said: str, small_run: Path) -> None:
    metrics = read_run(small_run).metrics
    recipe = load_recipe("celeba-hq-gender", settings=settings)
    assert said in training(recipe, metrics).replace("\u00a0", " ").replace("\u202f", " ")


def test_views_that_repeat_are_no_random_augmentation() -> None:
    train = load_recipe("celeba-hq-gender", settings=("train.epochs=4",)).train
    assert views(Augment(), train) == ""
    assert "random augmentation" in views(Augment(policy="flip", views=4), train)
    assert "a finite set" in views(Augment(policy="crop", views=3), train)
