"""A study as data: what is computed once, and the trials."""

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pydantic import Field

from thaw.cache.arrays import key_of
from thaw.compute.device import Compute
from thaw.data.dataset import Dataset
from thaw.data.shifted import ShiftedSet
from thaw.images.preprocessing import Size, sides
from thaw.nets.backbones import weights_digest
from thaw.recipe import Recipe
from thaw.record import Record
from thaw.training.activations import Prefix
from thaw.training.prepare import build_network, check_batch
from thaw.training.results import NetworkFacts, Thawed
from thaw.training.specs import ArmSpec, feature_spec, head_only, resolve_arm
from thaw.training.sweep import thawed_arms
from thaw.versions import versions

DONE = "done.safetensors"
"""The file of a finished trial in its folder."""


@dataclass(frozen=True)
class Study:
    """All that a study's trials share."""

    recipe: Recipe
    dataset: Dataset
    compute: Compute
    folder: Path
    """The run folder."""
    shifted: tuple[ShiftedSet, ...] = ()
    """Further test sets."""

    @cached_property
    def work(self) -> Path:
        """Where finished pieces are kept: another folder for other data or splits, other weights or versions."""
        further = {"shifted": {one.name: one.key for one in self.shifted}} if self.shifted else {}
        key = key_of(
            **further,
            pixels=self.dataset.key,
            data=self.dataset.identity(),
            weights={spec.name: weights_digest(spec.weights) for spec in arms_of(self.recipe)},
            versions=versions("thaw-vision", "torch", "torchvision", "timm"),
            compute=[self.compute.device.type, self.compute.precision],
        )
        return self.folder / "work" / key


class Trial(Record):
    """One arm with one seed, on all training images or a share of them: the unit of work."""

    spec: ArmSpec
    """The arm."""
    seed: int
    """The seed of head, batches and dropout."""
    fraction: float = 1.0
    """The fraction of the training images that it trains on."""
    repeat: int = 0
    """The draw of the splits: 0 is the study's own."""
    saved: bool
    """Whether its model is kept as a bundle: that of each arm's first seed is, trained on all training images."""
    shared: bool = False
    """Whether what it trains is kept for other trials: those of arms that average the same arm."""
    prefixes: list[Prefix]
    """The plan's prefixes: where their activations are cached, computing its own goes on from there; the result is the
    same without."""

    @property
    def name(self) -> str:
        """The trial's folder among a study's finished pieces."""
        return self._folder(self.spec.name)

    @property
    def training(self) -> str:
        """The folder of what it trains, which an arm shares with those that average it."""
        return self._folder(self.spec.average or self.spec.name)

    def _folder(self, arm: str) -> str:
        return f"{arm}-{self.seed}" + (f"@{self.fraction}" if self.fraction != 1 else "")


class Plan(Record):
    """A study's work before any of it is done."""

    prefixes: list[Prefix]
    """What is computed once, the shortest first."""
    trials: list[Trial]
    """Those that train most come first, since their prefixes are the shortest and longer ones go on from there."""
    networks: dict[str, NetworkFacts]
    """What each arm trains, freezes and computes once."""
    thawed: dict[str, Thawed]
    """How deep each arm thaws that starts from `model.weights` and trains everything from one layer on."""
    views: int
    """Views of images that are computed besides the images themselves."""
    view_bytes: int
    """What the pixels of these take in the cache; mirror images take none."""
    repeated: list[Trial] = Field(default_factory=list)
    """The trials on other draws of the splits, see `repeats.with_repeats`."""
    repeat_views: int = 0
    """Views that are computed for these."""


def arms_of(recipe: Recipe) -> list[ArmSpec]:
    """The arms of a recipe, resolved, in its order. Raises ModelError."""
    return [resolve_arm(name, arm, recipe) for name, arm in recipe.arms.items()]


def check_batches(recipe: Recipe, size: Size) -> None:
    """Raise ModelError if an arm cannot train on batches of the recipe's size; takes no time unless that is 1."""
    for spec in arms_of(recipe):
        check_batch(spec, size)


def make_plan(
    recipe: Recipe, classes: int, images: int, size: Size, compute: Compute, views: Sequence[int] = ()
) -> Plan:
    """Plan a study of so many images of a size, in so many classes.

    Every network is built, frozen and split once, so that what is wrong with any arm shows before one is trained; no
    image is decoded.

    Parameters
    ----------
    recipe
        The arms and seeds.
    classes
        The logits of every network.
    images
        Images of all splits together; whether the activations of a prefix fit in the cache depends on it.
    size
        What the networks see.
    compute
        The device and precision of the study.
    views
        The images of each view that is stored, see `data.views.view_rows`.

    Returns
    -------
    Plan
        The prefixes whose activations fit in the cache, each once, and a trial for each arm, seed and fraction of the
        training images.

    Raises
    ------
    ModelError
        A backbone, its weights or what an arm trains cannot be used.
    """
    arms, seeds = arms_of(recipe), recipe.train.seeds
    wanted = [(spec, seed) for spec in [*arms, *(head_only(arm) for arm in arms if arm.probe)] for seed in seeds]
    drawn = sum(views[-recipe.augment.views :]) if recipe.augment.policy in ("crop", "strong") else 0
    rows = images + sum(views)
    prefixes: dict[str, Prefix | None] = {}
    facts: dict[str, NetworkFacts] = {}
    for spec, seed in [*wanted, (feature_spec(recipe), 0)]:
        key = spec.network_key(seed)
        if key not in facts:
            built = build_network(spec, seed, classes, size, compute)
            facts[key], prefixes[key] = built.facts(rows), built.prefix
            del built
            gc.collect()  # graphs and their networks hold each other
    distinct = {prefix.model_dump_json(): prefix for prefix in prefixes.values() if prefix and prefix.fits(rows)}
    planned = sorted(distinct.values(), key=lambda prefix: prefix.cut.macs)
    networks = {arm.name: facts[arm.network_key(seeds[0])] for arm in arms}
    shared = {arm.average for arm in arms if arm.average}
    trials = [
        Trial(
            spec=arm,
            seed=seed,
            fraction=fraction,
            saved=seed == seeds[0] and fraction == 1,
            shared=arm.average is not None or arm.name in shared,
            prefixes=planned,
        )
        for arm in sorted(arms, key=lambda arm: -networks[arm.name].parameters.trainable)
        for seed in seeds
        for fraction in reversed(recipe.sweep.labels)
    ]
    tall, broad = sides(size)
    return Plan(
        prefixes=planned,
        trials=trials,
        networks=networks,
        thawed=thawed_arms(recipe, networks, classes, size),
        views=sum(views),
        view_bytes=3 * tall * broad * drawn,
    )


def plan_study(study: Study) -> Plan:
    """Plan a study whose images are there. Raises ModelError."""
    dataset = study.dataset
    classes, images, size = len(dataset.source.classes), len(dataset.source.ids), dataset.preprocessing.size
    views = [len(view.rows) for view in dataset.views]
    return make_plan(study.recipe, classes, images, size, study.compute, views)


def unfinished(study: Study, plan: Plan) -> Plan:
    """The plan without the trials that an earlier run of the study finished."""
    left = [trial for trial in plan.trials if not (study.work / trial.name / DONE).exists()]
    return plan.model_copy(update={"trials": left})
