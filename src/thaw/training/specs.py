"""One way of training a backbone, resolved: all that building, freezing and training its network depends on."""

from typing import Literal

from thaw.recipe import Arm, Head, Search, Settings, Training, training_of
from thaw.recipes import embedded_weights
from thaw.record import Record


class ArmSpec(Record):
    """An arm with every setting that it shares with the rest of its recipe filled in."""

    name: str
    """The arm's name."""
    backbone: str
    """A torchvision or timm network by name."""
    at: str | None = None
    """The module that the network is cut after; None for all of it."""
    grid: int = 1
    """How the output there is pooled; see `nets.cut.Pool`."""
    weights: str
    """Where it starts: `random`, a name of the library's weights, or the path of a `.safetensors` file."""
    train: str | list[str]
    """Which parameters train; see `nets.freezing.freeze`."""
    head: Head
    """How its head is found: by gradient steps, or fitted to the features."""
    rank: int
    """Of low-rank adapters."""
    layer_decay: float
    """The learning rate of each block relative to that of the block after it."""
    probe: bool
    """Whether a linear probe comes first."""
    average: str | None = None
    """The arm, trained as this one, whose end is averaged with its start; None: this is no average."""
    alpha: float = 1.0
    """The part of the trained weights in that average."""
    frozen: Literal["eval", "train"]
    """The mode of dropout and stochastic depth before the first trained layer."""
    cached: bool
    """Whether the prefix is computed once; else the whole network runs at every step."""
    search: Search
    """The learning-rate search."""
    training: Training
    """The final training."""

    def network_key(self, seed: int) -> str:
        """Names the network before training: arms and seeds with equal names have equal networks, but for the head."""
        drawn = seed if self.weights == "random" else None
        how = (self.at, self.grid, self.train, self.head, self.probe, self.rank, self.frozen, self.cached)
        return repr((self.backbone, self.weights, *how, drawn))


def resolve_arm(name: str, arm: Arm, settings: Settings) -> ArmSpec:
    """Resolve an arm. Raises ModelError for embedded weights that do not exist."""
    return ArmSpec(
        name=name,
        backbone=settings.model.backbone,
        at=arm.at,
        grid=arm.grid,
        weights=embedded_weights(arm.weights or settings.model.weights),
        train=arm.train,
        head=arm.head,
        rank=arm.rank,
        layer_decay=arm.layer_decay,
        probe=arm.probe,
        average=arm.average,
        alpha=arm.alpha if arm.average else 1.0,
        frozen=settings.model.frozen,
        cached=settings.cache.activations == "auto",
        search=settings.search,
        training=training_of(arm, settings.train),
    )


def head_only(spec: ArmSpec) -> ArmSpec:
    """The arm with its head alone in training: what a linear probe is fitted in."""
    return spec.model_copy(update={"train": "head", "head": "trained", "layer_decay": 1.0, "probe": False})


def feature_spec(settings: Settings) -> ArmSpec:
    """The backbone that `model.weights` gives in evaluation mode, whose features describe the images."""
    model = settings.model.model_copy(update={"frozen": "eval"})
    return head_only(resolve_arm("features", Arm(train="head"), settings.model_copy(update={"model": model})))
