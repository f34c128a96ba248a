"""The linear probe that an arm may start from (LP-FT: Kumar et al., 2022, arXiv:2202.10054)."""

from pathlib import Path
from typing import Any

from thaw.compute.device import Compute
from thaw.data.dataset import Dataset
from thaw.recipe import Arm, Recipe
from thaw.training.network import Network
from thaw.training.prepare import Kept, keep_activations, prepare
from thaw.training.search import search
from thaw.training.train import train


def probe_recipe(recipe: Recipe, arm: str) -> Recipe:
    """The recipe of an arm's probe: its head alone, on the training images alone."""
    return recipe.model_copy(
        update={
            "arms": {arm: Arm(train="head", weights=recipe.arms[arm].weights)},
            "train": recipe.train.model_copy(update={"refit": "train"}),
        }
    )


def probe_head(
    network: Network,
    arm: str,
    seed: int,
    dataset: Dataset,
    recipe: Recipe,
    compute: Compute,
    kept: list[Kept],
    work: Path | None = None,
) -> dict[str, Any]:
    """Train the head of an arm's network alone, with a search of its own, and leave it in `network`; what is noted.

    It never sees a validation image, since the arm's own search is scored on these.
    """
    alone = probe_recipe(recipe, arm)
    probe, noted = prepare(arm, seed, dataset, alone, compute, kept)
    splits, labels = dataset.splits, dataset.labels(compute.device)
    found = search(probe, labels, splits, alone, seed, compute, work)
    trained = train(probe, found.learning_rate, labels, splits, alone, seed, compute, work)
    head = noted["head"]
    network.model.get_submodule(head).load_state_dict(probe.model.get_submodule(head).state_dict())
    seconds = found.seconds + trained.seconds
    return {"learning_rate": found.learning_rate, "epochs": trained.epochs, "seconds": seconds}


def catch_up(arm: str, seed: int, dataset: Dataset, recipe: Recipe, compute: Compute, kept: list[Kept]) -> None:
    """Add to `kept` all that an arm, and its probe, would have added; an earlier run has trained it."""
    keep_activations(arm, seed, dataset, recipe, compute, kept)
    if recipe.arms[arm].probe:
        keep_activations(arm, seed, dataset, probe_recipe(recipe, arm), compute, kept)
