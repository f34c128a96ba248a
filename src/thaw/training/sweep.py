"""Depths as arms: those that `[sweep]` adds to a recipe, and how deep each arm of a study thaws."""

from collections.abc import Mapping

from thaw.data.load import preprocessing_of
from thaw.errors import ModelError
from thaw.images.preprocessing import Size, sides
from thaw.nets.backbones import build_backbone, native_size
from thaw.nets.depths import Depth, choose_depths, depth_of, depths_of
from thaw.nets.freezing import freeze
from thaw.recipe import Arm, Recipe
from thaw.training.results import NetworkFacts, Thawed


def with_depths(recipe: Recipe) -> Recipe:
    """Return a recipe with an arm for each depth of `sweep.depths` at which none trains yet.

    What it returns has them all, and is left as it is by another call. The added arms stand where they belong by depth,
    before the first arm of the recipe that thaws more.

    Raises
    ------
    ModelError
        The backbone cannot be used, a name to train matches nothing, or an arm that trains otherwise has the name of an
        arm to add.
    """
    if recipe.sweep.depths is None:
        return recipe
    native, size = native_size(recipe.model.backbone), preprocessing_of(recipe).size
    model, head = build_backbone(recipe.model.backbone, "random", 2, seed=0)
    depths = depths_of(model, head, native, sides(size))
    own = {
        name: depth_of(freeze(model, head, arm.train, native), depths) if _nested(recipe, name) else None
        for name, arm in recipe.arms.items()
    }
    chosen = [depths[place] for place in choose_depths([depth.macs for depth in depths], recipe.sweep.depths)]
    missing = [depth for depth in chosen if depth not in own.values()]
    arms: dict[str, Arm] = {}

    def add(depth: Depth) -> None:
        name, arm = _arm(depth, depths)
        if name.lower() in {other.lower() for other in recipe.arms}:
            raise ModelError(f"arms.{name} does not train what sweep.depths calls so; give that arm another name.")
        arms[name] = arm

    for name, arm in recipe.arms.items():
        ahead = own[name]
        while missing and ahead and missing[0].macs < ahead.macs:
            add(missing.pop(0))
        arms[name] = arm
    for depth in missing:
        add(depth)
    return recipe.model_copy(update={"arms": arms})


def thawed_arms(recipe: Recipe, networks: Mapping[str, NetworkFacts], classes: int, size: Size) -> dict[str, Thawed]:
    """Return how deep each arm thaws that starts from `model.weights` and trains everything from one layer on.

    Parameters
    ----------
    recipe
        The arms.
    networks
        What each arm trains.
    classes
        The logits of every network.
    size
        What the networks see.
    """
    model, head = build_backbone(recipe.model.backbone, "random", classes, seed=0)
    depths = depths_of(model, head, native_size(recipe.model.backbone), sides(size))
    found = {arm: depth_of(facts.modules, depths) for arm, facts in networks.items() if _nested(recipe, arm)}
    return {
        arm: Thawed(
            first=depth.modules[0],
            arithmetic=depth.macs / depths[0].macs,
            parameters=networks[arm].parameters.trainable / networks[arm].parameters.total,
        )
        for arm, depth in found.items()
        if depth
    }


def _nested(recipe: Recipe, arm: str) -> bool:
    """Whether an arm may be one of those that differ in depth alone."""
    settings = recipe.arms[arm]
    whole = settings.at is None and settings.average is None and recipe.weights_of(arm) == recipe.model.weights
    return whole and settings.train != "lora" and settings.head in ("trained", "linear")


def _arm(depth: Depth, depths: list[Depth]) -> tuple[str, Arm]:
    """The arm that trains from a depth on, and its name."""
    if depth == depths[-1]:
        return "head", Arm(train="head")
    if depth == depths[0]:
        return "everything", Arm(train="all")
    return f"from-{_short(depth.modules[0], depths)}", Arm(train=list(depth.modules))


def _short(module: str, depths: list[Depth]) -> str:
    """The end of a module's name that tells it from other layers' and does not begin with a number."""
    parts, others = module.split("."), [depth.modules[0] for depth in depths if depth.modules[0] != module]
    for start in range(len(parts) - 1, 0, -1):
        end = ".".join(parts[start:])
        if not end[0].isdigit() and not any(f".{other}".endswith(f".{end}") for other in others):
            return end
    return module
