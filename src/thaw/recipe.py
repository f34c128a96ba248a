"""Recipes: the typed settings of a study, read from TOML; all problems are reported at once."""

import contextlib
import difflib
import re
import tomllib
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tomlkit
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from thaw.errors import RecipeError

BUILT_IN = resources.files("thaw.recipes")
MAX_BYTES = 1 << 20
MAX_GRID = 16
ARM_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")

Seed = Annotated[int, Field(ge=0, lt=1 << 32)]
"""As numpy and scikit-learn take them, which every library's generator does."""
Side = Annotated[int, Field(gt=0, le=8192)]
"""In pixels: one image of more takes the network over 800 MB, before its first layer."""
Passes = Annotated[int, Field(gt=0, le=10_000)]
"""Epochs: the batches of all of them are drawn before the first, a hundred times as many as fine-tuning takes."""
Steps = Annotated[int, Field(gt=0, le=100_000)]
"""Of one attempt of a search, which is there to be shorter than training."""
BatchSize = Annotated[int, Field(gt=0, le=1 << 20)]
"""As many images as the largest public sets have: a larger batch is the whole set, as this one is."""
Rank = Annotated[int, Field(gt=0, le=4096)]
"""Of a matrix in a layer: no layer of a backbone has a rank above this."""
LearningRate = Annotated[float, Field(gt=0, lt=float("inf"))]
WeightDecay = Annotated[float, Field(ge=0, lt=1)]
PublishedScore = Annotated[float, Field(ge=0, le=1)] | None
Fraction = Annotated[float, Field(gt=0, lt=1)]
SplitSize = Annotated[int, Field(gt=0, le=1 << 32)] | Fraction | Annotated[str, Field(min_length=1)]
CostRow = Annotated[list[Annotated[float, Field(ge=0, lt=1e9)]], Field(min_length=2, max_length=2)]
Metric = Literal["accuracy", "balanced_accuracy", "macro_f1", "log_loss", "auroc", "average_precision"]
"""The numbers that may be chosen by, as scikit-learn defines them; see `scoring.measure`."""
Head = Literal["trained", "linear", "knn", "prototype"]
Mean = Annotated[list[Annotated[float, Field(ge=0, le=1)]], Field(min_length=3, max_length=3)]
Std = Annotated[list[Annotated[float, Field(ge=0.001, le=1)]], Field(min_length=3, max_length=3)]
"""Of values between 0 and 1; a quarter of a level of 256 at least, since pixels are divided by it."""

SPLIT_NAMES = ("train", "validation", "test")
CORRUPTIONS = ("noise", "blur", "jpeg", "light", "contrast", "rotation")
"""What `data.corruptions` does to the test images; see `images.corrupt`."""
ARMS_SHARE = {"seeds", "precision", "device", "refit", "rehearse", "budget"}
"""Keys of `[train]` that are the same for all arms of a study."""
AVERAGE = {"average", "alpha"}
"""Keys of an arm that say how it averages another."""
BUDGET = {"epochs", "batch_size", "patience"}
"""Keys of `[train]` that decide what an arm's training costs."""

# by key: the values of keys that take more than one type
UNIONS = {
    "size": "'auto', a number of pixels up to 8192, or two in a list: [height, width]",
    "batch_size": "'auto' or a number of images from 1 to 1048576",
    "epochs": "'auto' or a number of passes from 1 to 10000",
    "validation": "the name of a split, a number of images or a fraction between 0 and 1",
    "test": "the name of a split, a number of images or a fraction between 0 and 1",
    "depth": "'auto' or a number of levels up to 2**32, such as 4096",
    "train": "'all', 'head', 'last-stage', 'norm', 'bias', 'lora', or a list of module names",
}


class Section(BaseModel):
    """A table of a recipe; unknown keys and values of the wrong type are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)


class Data(Section):
    """The labelled images, and how they are split."""

    source: str
    """The source of labelled images: a folder with a subfolder per class, a CSV or Parquet table, a Hugging Face
    dataset folder, `hf:NAME` for a dataset on the hub, or `thaw:emoji-people` for the built-in example."""
    image: str = "image"
    """The column with the images, or with their paths relative to the table."""
    label: str = "label"
    """The column with the classes: names, integers or a `ClassLabel`."""
    split: str | None = None
    """The column of a table that names the split of each row; folders and datasets have their own splits."""
    group: str | None = None
    """A column whose values never straddle two splits: a person, a patient, a drawing in several colours. `copies`,
    where no column is called so, keeps together the images that are found to be copies of each other."""
    slices: list[str] | None = None
    """The columns to report results by; by default every other column that holds numbers or 2 to 30 distinct values."""
    validation: SplitSize | None = None
    """The validation set: the name of a split of the source, or a number or fraction of images to draw. By default the
    source's split of that name, or if there is none, 15% drawn."""
    test: SplitSize | None = None
    """The test set, given in the same way. It is not used before every choice is made."""
    limit: Annotated[int, Field(gt=0, le=1 << 32)] | None = None
    """Use so many of the source's images only, for a quick first look: drawn in proportion to classes and the source's
    splits, whole groups together. By default all are used."""
    seed: Seed = 0
    """Seed for drawing splits, and the images of a limit."""
    repeats: Annotated[int, Field(ge=1, le=100)] = 1
    """How many draws of the splits every arm is searched, trained and tested on. The first is the study; the others
    have seeds derived from `seed`, and tell how much of a score, and of a difference of arms, is the draw. What names a
    split of the source stays."""
    on_bad_image: Literal["skip", "fail"] = "skip"
    """What to do with an image that cannot be read or decoded: `skip` leaves it out and lists it with the reason,
    `fail` stops the study."""
    max_bad_fraction: Annotated[float, Field(ge=0, le=1)] = 0.1
    """The largest fraction of images that may be skipped; beyond it, the study is refused."""
    labels: str | None = None
    """A CSV file with corrected labels: `id` names an image as a run does, `corrected` its right class, or nothing. The
    `label_errors.csv` of a run is there to be filled in. The splits stay as they were without it."""
    shifted: dict[str, str] = {}
    """Further test sets by name, such as `{night = "photos/night"}`: sources of the same kind and with the same columns
    as `source`, from another camera, place or time. All their images are scored once, with the test set, after every
    choice is made."""
    corruptions: bool = False
    """Score the test images with six mild corruptions too: noise, blur, JPEG, light, contrast and a rotation by 5
    degrees. Every arm classifies the test set six times more."""

    @field_validator("shifted")
    @classmethod
    def _plain_sets(cls, shifted: dict[str, str]) -> dict[str, str]:
        for name in shifted:
            if not ARM_NAME.fullmatch(name) or name in (*SPLIT_NAMES, *CORRUPTIONS):
                raise ValueError(
                    f"data.shifted names a test set {name!r}; begin with a letter or digit, use at most 63 letters, "
                    f"digits, '.', '_' and '-', and none of {', '.join((*SPLIT_NAMES, *CORRUPTIONS))}"
                )
        return shifted


class Images(Section):
    """How an image becomes an array; keys that are left out follow from the backbone's weights."""

    size: Side | Annotated[list[Side], Field(min_length=2, max_length=2)] | Literal["auto"] | None = None
    """The size in pixels of the images that the network sees: of each side, or `[height, width]`. `auto` is the size
    that the backbone was made for, or a smaller one where the images are small."""
    resize: Literal["squash", "crop", "letterbox", "auto"] | None = None
    """`squash` resizes both sides to size; `crop` keeps the aspect ratio and crops the centre; `letterbox` keeps it,
    fits the whole image inside and pads it evenly with the mean colour. `auto` is squash, unless a probe of the
    training and validation images answers better, beyond chance, with one of the others."""
    interpolation: Literal["bilinear", "bicubic"] | None = None
    """The resampling filter, antialiased."""
    mean: Mean | None = None
    """Mean of red, green and blue, for values between 0 and 1."""
    std: Std | None = None
    """Standard deviation of red, green and blue, for values between 0 and 1."""
    depth: Literal["auto"] | Annotated[int, Field(ge=2, le=1 << 32)] = "auto"
    """Levels of grey images of more than 8 bits: 4096 makes 0 black and 4095 white. `auto` chooses one scale for the
    whole source from its values; NaN is black."""
    decode: Literal["exact", "fast"] = "exact"
    """`exact` decodes every pixel; `fast` lets the JPEG decoder downscale images that are much larger than size."""


class Model(Section):
    """The backbone that every arm trains."""

    backbone: str
    """A torchvision or timm classification model: `torchvision/alexnet`, `timm/resnet50`."""
    weights: str
    """`random`; the library's name for pretrained weights, such as `IMAGENET1K_V1`; a `.safetensors` file; or
    `thaw:mobilenet_v2` for the built-in ones."""
    frozen: Literal["eval", "train"] = "eval"
    """The mode of dropout and stochastic depth before the first trained layer. `eval` turns them off, so that more of
    the network is computed once; `train` keeps them active."""


class Search(Section):
    """The learning-rate search: the same budget for every arm."""

    method: Literal["grid", "halving"] = "grid"
    """`grid` tries each of `learning_rates`. `halving` (successive halving) tries `candidates` learning rates spread
    over `range`, keeps the better half, trains these from the start for twice the steps, and so on until one is left;
    if that lies at an end of the range, the range is extended there, at most twice."""
    learning_rates: Annotated[list[LearningRate], Field(min_length=1)] = [1e-5, 1e-4, 1e-3]
    """The learning rates of a grid, each tried from the same initial weights; the best validation score wins."""
    range: Annotated[list[LearningRate], Field(min_length=2, max_length=2)] = [1e-5, 1e-1]
    """The lowest and the highest learning rate of a halving."""
    candidates: Annotated[int, Field(ge=2, le=256)] = 8
    """The number of learning rates in the first round of a halving, evenly spaced on a logarithmic scale."""
    weight_decays: Annotated[list[WeightDecay], Field(min_length=1)] | None = None
    """Weight decays that are each tried at the learning rate found; by default `train.weight_decay` alone."""
    steps: Steps = 15
    """Optimizer steps per learning rate, in a halving those of the first round."""
    max_steps: Steps | None = None
    """Where no learning rate answers better than always naming the commonest class, beyond chance, the search begins
    again with twice the steps, up to so many, or with `schedule = "train"` up to those of the training itself; by
    default it decides on what it has."""
    schedule: Literal["constant", "train"] = "constant"
    """The learning rate of an attempt: `constant`, or that of `train.schedule` and `train.warmup`, over its steps."""
    metric: Metric = "accuracy"
    """What attempts and epochs are compared by on the validation images."""
    ties: Literal["exact", "noise"] = "exact"
    """The attempts that count as equally good: those with equal scores (`exact`), or those that the validation images
    cannot tell from the best (`noise`: paired, by less than one standard error). Of these the lowest validation loss
    wins; with `noise`, of losses that cannot be told apart either, the learning rate in the middle."""

    @field_validator("range")
    @classmethod
    def _ascending(cls, bounds: list[float]) -> list[float]:
        if bounds[0] >= bounds[1]:
            raise ValueError(f"search.range = {bounds} should be the lowest learning rate, then the highest")
        return bounds


class Train(Section):
    """The final training of every arm."""

    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    """torch's Adam, AdamW, or SGD with momentum 0.9."""
    weight_decay: WeightDecay = 0.0
    """Weight decay of weight matrices and kernels; biases, normalisation layers, position embeddings, class tokens and
    tables of relative positions have none, as in timm."""
    schedule: Literal["constant", "cosine"] = "constant"
    """The learning-rate schedule of the final training: `cosine` falls to zero along half a cosine."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The fraction of the final training's steps over which the learning rate first rises linearly."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The fraction of each label that is spread evenly over all classes."""
    class_weights: Literal["none", "balanced", "auto"] = "none"
    """`balanced` weights each class in the loss by the inverse of its frequency in the training images; `auto` does so
    where a class is rare or one has most images."""
    sampling: Literal["all", "balanced"] = "all"
    """`all` shows every image once an epoch; `balanced` draws as many, each class as often as the others."""
    mix: Literal["none", "mixup", "cutmix"] = "none"
    """`mixup` trains on sums of two images of a batch, `cutmix` on images with a rectangle of another, with labels in
    proportion. Only for arms of which nothing is computed once, such as `train = "all"`: set it in
    `[arms.NAME.training]`."""
    clip: Annotated[float, Field(gt=0)] | None = None
    """The norm that the gradient of a step is shortened to where it is longer."""
    batch_size: BatchSize | Literal["auto"] = 512
    """Images per step, also in the search. `auto` fits the number of training images: 32, or 16 where these are
    fewer than 256."""
    epochs: Passes | Literal["auto"] = 3
    """Passes over the training images. `auto` fits their number: 12 for 320 images, half as many for sixteen times as
    many, and 3 to 20 in all."""
    budget: Literal["equal", "own"] = "equal"
    """The question that is asked. `equal`: which arm is best at the same cost; every arm has the same epochs and
    batches. `own`: which is best when each is given what it needs, in `[arms.NAME.training]`."""
    refit: Literal["train+validation", "train"] = "train+validation"
    """The images that the final training uses, once the learning rate is chosen."""
    rehearse: bool = False
    """Train on the training images alone first, which gives validation curves and the temperature of the
    probabilities, then anew on both. With `refit = "train"` there is nothing to rehearse."""
    keep: Literal["last", "best", "average"] = "last"
    """The weights that training ends with: those of its last epoch, of the epoch with the best validation score, or the
    mean over the epochs of its last quarter; `best` needs `refit = "train"`."""
    patience: Passes | None = None
    """Stop after this many epochs without a better validation score, and keep the best epoch; needs
    `refit = "train"`."""
    seeds: Annotated[list[Seed], Field(min_length=1)] = [0]
    """Random seeds: each repeats search, training and test of every arm with another initial head, other batches and
    other dropout masks."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Numeric precision: `fp32` is the exact reference; `auto` uses bf16 where the hardware supports it natively."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """The device to compute on: `auto` uses the first of CUDA, MPS and CPU that is available."""

    @model_validator(mode="after")
    def _held_out(self) -> "Train":
        if self.patience and self.refit != "train":
            raise ValueError(
                'train.patience needs validation images that are not trained on; set train.refit = "train"'
            )
        if self.keep == "best" and self.refit != "train":
            raise ValueError(
                'train.keep = "best" needs validation images that are not trained on; set train.refit = "train"'
            )
        return self

    @property
    def rehearses(self) -> bool:
        """Whether a training on the training images alone comes first."""
        return self.rehearse and self.refit == "train+validation"

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds):
            raise ValueError(f"train.seeds = {seeds} should all differ")
        return seeds


class Training(Train):
    """The final training of one arm, with nothing left open."""

    class_weights: Literal["none", "balanced"] = "none"
    batch_size: BatchSize = 512
    epochs: Passes = 3


class Augment(Section):
    """Random augmentation by cached views, shared by all arms, learning rates and seeds."""

    policy: Literal["none", "flip", "crop", "strong"] = "none"
    """How views are drawn: `flip`, each image or its mirror image; `crop`, a random part of at least 35% of the area,
    resized, or its mirror image; `strong`, the same with one random change of colour or shape (TrivialAugment) and, in
    one of ten, a rectangle erased. All three mirror, which text and left or right hands do not bear."""
    views: Annotated[int, Field(ge=1, le=10_000)] = 1
    """The views of each image that are drawn: epoch e trains on view e modulo `views`. As many as there are epochs are
    random augmentation; each costs the storage of a further data set, but for `flip`."""
    seed: Seed = 0
    """Seed for drawing the views."""
    test_views: Literal[1, 2] = 1
    """What is averaged at test, in `thaw predict`, `thaw serve` and exports: 1 is the image alone, 2 the image and its
    mirror image."""


class Cache(Section):
    """The cache of activations."""

    activations: Literal["auto", "off"] = "auto"
    """`auto` computes the output of the layers that an arm leaves unchanged once per image and caches it; `off` runs
    the whole network at every step. The results are the same."""


class Arm(Section):
    """One way of training the backbone."""

    train: str | Annotated[list[str], Field(min_length=1)]
    """The parameters to train: `all`; `head`; `last-stage`, from the last downsampling on; `norm`, the normalisation
    layers and the head; `bias`, all biases and the head (BitFit); `lora`, low-rank adapters on linear layers, 1 x 1
    convolutions and the projections of attention, and the head; or module names or globs:
    `["classifier.4", "features.1?"]`."""
    weights: str | None = None
    """The weights that this arm starts from; by default `model.weights`."""
    at: Annotated[str, Field(min_length=1)] | None = None
    """The module after which the network is cut, such as `features.6`: its output is pooled and enters a new head, and
    the modules after it are gone, from the bundle too, which is smaller and faster. By default the network is whole."""
    grid: Annotated[int, Field(ge=1, le=MAX_GRID)] = 1
    """With `at`: a map is pooled to so many parts in each direction, which keeps where things are. 1 is global average
    pooling; 4 gives the head 16 numbers a channel."""
    head: Head = "trained"
    """How the head of `train = "head"` is found. `trained` takes gradient steps, as everything else that trains. The
    others are fitted at once to the features of the network in evaluation mode, with no learning rate, batches, label
    smoothing or seed; what they leave open is chosen by the loss on the validation images. `linear` is logistic
    regression, solved to its minimum, with an L2 penalty; `knn` asks the training images with the most similar features
    (cosine); `prototype` takes the class with the nearest mean of features of length 1."""
    probe: bool = False
    """Fit the head alone first, as `head = "linear"` does but to the training images alone, then continue from there
    (linear probing, then fine-tuning: LP-FT)."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """The learning rate of each block relative to the block after it; the head has the full learning rate. Blocks are
    counted as timm and BEiT count them: a block of a stage is one, and the stem with the embeddings is one."""
    rank: Rank = 8
    """The rank of the adapters of `train = "lora"`."""
    average: str | None = None
    """The name of another arm, with `probe = true`: this arm is the weights which that one ends with, averaged with
    those it starts training from, the pretrained network under its linear probe (WiSE-FT). It has no other key than
    `alpha`, and no training of its own."""
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.5
    """The part that the trained weights have in that average: 0 is the start, 1 the trained arm."""
    training: dict[str, Any] = {}
    """Keys of `[train]` that this arm has values of its own for, such as `weight_decay`; `epochs`, `batch_size` and
    `patience` only where `train.budget = "own"`."""


class Verdict(Section):
    """What decides which arm to use."""

    metric: Metric = "accuracy"
    """The number that arms are compared by on the test images; more is better, so the log loss counts as negative."""
    margin: Annotated[float, Field(ge=0, le=1)] = 0.01
    """The loss against the best arm that a cheaper one may have: 0.01 of accuracy is one point."""
    cost: Literal["none", "train seconds", "inference", "trained parameters"] = "none"
    """What makes an arm cheaper: the seconds of its search and training, the parameters of the network that classifies
    (`inference`), or those that it trains. A cheaper arm is recommended only where it is shown to be within `margin` of
    the best; with `none`, the best arm is."""


class Sweep(Section):
    """What a study varies besides its arms: how deep it thaws, with how many labels, and which network."""

    depths: Annotated[int, Field(ge=2, le=64)] | None = None
    """Depths to thaw, from the head alone to everything: so many arms, cut between layers such that the multiply-adds
    of what trains rise evenly, each called after the first layer that it trains, as `from-features.14`. A depth at
    which an arm of the recipe trains already, from `model.weights`, gets no second one."""
    labels: Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=1)] = [1.0]
    """Fractions of the training images that every arm is trained on, each with every seed, ascending to 1.0. Each holds
    the ones before it, is stratified by label, keeps groups whole, and is drawn with `data.seed`; validation and test
    stay as they are. The verdict is about all images."""
    backbones: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)] | None = None
    """Networks to study in place of `model.backbone`, such as `["torchvision/mobilenet_v2", "timm/resnet50@a1_in1k"]`:
    each with all arms, at the size that it was made for unless `images.size` gives one for all. What stands behind `@`
    is written as `model.weights`; without it a network has its usual pretrained weights, and that of `model.backbone`
    has `model.weights`."""

    @field_validator("backbones")
    @classmethod
    def _each_once(cls, backbones: list[str] | None) -> list[str] | None:
        twice = [name for name in backbones or () if (backbones or []).count(name) > 1]
        if twice:
            raise ValueError(f"sweep.backbones names {twice[0]!r} twice; name each network once")
        return backbones

    @field_validator("labels")
    @classmethod
    def _ascending(cls, labels: list[float]) -> list[float]:
        if labels != sorted(set(labels)) or labels[-1] != 1:
            raise ValueError(
                f"sweep.labels = {labels} should be fractions that rise to 1.0, such as [0.1, 0.25, 0.5, 1.0]"
            )
        return labels


class Decide(Section):
    """What a trained model says besides its most probable class; all of it is chosen on the validation images."""

    positive: str | None = None
    """The class that a threshold is for; a name as in the data. Then one of `recall`, `precision` and `costs` is
    given. Where the class does not reach the threshold, the most probable of the others is decided for."""
    recall: Fraction | None = None
    """The threshold finds this fraction of the images of `positive`, on average over validation sets."""
    precision: Fraction | None = None
    """The lowest threshold with which this fraction of the validation images decided for are of `positive`."""
    costs: Annotated[list[CostRow], Field(min_length=2, max_length=2)] | None = None
    """The threshold with the least mean cost on validation: `[[0, 1], [10, 0]]` are the costs of deciding against
    `positive` and for it, first for images of other classes, then for its own. Here a miss costs ten false alarms."""
    coverage: Fraction = 0.9
    """The fraction of images whose prediction set, the classes that an image may be, is to hold their class."""
    false_alarms: Fraction = 0.05
    """The fraction of images like those of training that may be called unlike them."""

    @model_validator(mode="after")
    def _one(self) -> "Decide":
        given = [key for key in ("recall", "precision", "costs") if getattr(self, key) is not None]
        if self.positive is None and given:
            raise ValueError(f"decide.{given[0]} is of a class; name it in decide.positive")
        if self.positive is not None and len(given) != 1:
            raise ValueError(
                f"decide.positive = {self.positive!r} should come with one of decide.recall, decide.precision and "
                f"decide.costs, not {' and '.join(given) or 'none'}"
            )
        if self.costs is not None and not (self.costs[0][0] < self.costs[0][1] and self.costs[1][1] < self.costs[1][0]):
            raise ValueError(f"decide.costs = {self.costs} should make each right decision cheaper than the wrong one")
        return self


class Settings(Section):
    """Everything about a study but its data."""

    images: Images = Images()
    """How an image becomes an array."""
    model: Model
    """The backbone, and the weights that it starts from."""
    search: Search = Search()
    """The learning-rate search of every arm."""
    train: Train = Train()
    """The final training of every arm."""
    augment: Augment = Augment()
    """Random augmentation by cached views."""
    cache: Cache = Cache()
    """The cache of activations."""
    arms: Annotated[dict[str, Arm], Field(min_length=1)]
    """The arms, by name."""

    @model_validator(mode="before")
    @classmethod
    def _averages(cls, values: Any) -> Any:
        """Give an arm that averages another one all keys of that."""
        arms = values.get("arms") if isinstance(values, dict) else None
        if not isinstance(arms, dict):
            return values
        filled = dict(arms)
        for name, arm in arms.items():
            if isinstance(arm, dict) and isinstance(arm.get("average"), str):
                of = arms.get(arm["average"])
                own = {key: of[key] for key in of.keys() - AVERAGE} if isinstance(of, dict) else {}
                filled[name] = {"train": "all", **own, **arm}  # what is averaged is checked below
        return {**values, "arms": filled}

    @field_validator("arms")
    @classmethod
    def _plain_names(cls, arms: dict[str, Arm]) -> dict[str, Arm]:
        for name in arms:
            if not ARM_NAME.fullmatch(name):
                raise ValueError(
                    f"the arm name {name!r} should start with a letter or digit and consist of at most 63 letters, "
                    "digits, '.', '_' and '-'"
                )
        if len({name.lower() for name in arms}) < len(arms):
            raise ValueError("arm names should differ in more than upper and lower case")
        for name, arm in arms.items():
            if arm.grid > 1 and arm.at is None:
                raise ValueError(f"arms.{name}.grid = {arm.grid} pools what a network is cut at; set arms.{name}.at")
            if arm.head != "trained" and (arm.train != "head" or arm.probe):
                raise ValueError(
                    f'arms.{name}.head = "{arm.head}" is fitted and nothing else trains; set arms.{name}.train = '
                    '"head" without probe, or leave head out'
                )
            _check_average(name, arm, arms)
        return arms

    @model_validator(mode="after")
    def _arms_train(self) -> "Settings":
        for name, arm in self.arms.items():
            if wrong := arm.training.keys() & ARMS_SHARE:
                raise ValueError(
                    f"arms.{name}.training.{min(wrong)} cannot differ between arms; set train.{min(wrong)}"
                )
            if self.train.budget == "equal" and (own := arm.training.keys() & BUDGET):
                raise ValueError(
                    f"arms.{name}.training.{min(own)} gives an arm a budget of its own; set train.budget = "
                    '"own", or remove it'
                )
            try:
                shared = {key: value for key, value in self.train.model_dump().items() if value != "auto"}
                Training.model_validate({**shared, **arm.training})
            except ValidationError as error:
                said = "; ".join(_problem(dict(item), Train) for item in error.errors(include_url=False))
                raise ValueError(f"arms.{name}.training: {said}") from error
        return self

    def weights_of(self, arm: str) -> str:
        """Return the weights that an arm starts from.

        Parameters
        ----------
        arm
            The arm's name.

        Returns
        -------
        str
            Those of the arm itself, or else `model.weights`.

        Raises
        ------
        KeyError
            There is no arm of that name.
        """
        return self.arms[arm].weights or self.model.weights


class Published(Section):
    """What was published of an arm, to be set beside what the study finds."""

    accuracy: PublishedScore = None
    """Accuracy on the published test set."""
    precision: PublishedScore = None
    """Precision, weighted by class support."""
    recall: PublishedScore = None
    """Recall, weighted by class support."""
    f1: PublishedScore = None
    """F1, weighted by class support."""
    images: Annotated[int, Field(gt=0, le=1 << 32)]
    """The number of test images that the scores were measured on, which says how exact they are."""


class Recipe(Settings):
    """Everything about a study."""

    name: str = "study"
    """The name of the study, for its report."""
    data: Data
    """The labelled images, and how they are split."""
    verdict: Verdict = Verdict()
    """What decides which arm to use."""
    sweep: Sweep = Sweep()
    """What a study varies besides its arms."""
    decide: Decide = Decide()
    """What a trained model says besides its most probable class."""
    published: dict[str, Published] = {}
    """Published results by arm, such as `[published.head]`. The report sets them beside its own and says whether they
    agree; they change nothing else."""


Valid = TypeVar("Valid", bound=Settings)


def _check_average(name: str, arm: Arm, arms: dict[str, Arm]) -> None:
    """Raise ValueError where an arm averages what cannot be averaged."""
    if arm.average is None:
        return
    key, of = f"arms.{name}.average = {arm.average!r}", arms.get(arm.average)
    others = [other for other, it in arms.items() if it.probe and it.average is None]
    if of is None or of.average is not None:
        such = f"name one of {', '.join(others)}" if others else "name an arm with probe = true"
        raise ValueError(f"{key} is not an arm that trains; {such}")
    if not of.probe or of.train == "lora":
        raise ValueError(
            f"{key} starts from a random head or trains adapters, so that there is no start to average with; set "
            f"arms.{arm.average}.probe = true, and train other than lora"
        )
    if differ := sorted(
        key for key in Arm.model_fields if key not in AVERAGE and getattr(arm, key) != getattr(of, key)
    ):
        raise ValueError(
            f"arms.{name}.{differ[0]} differs from that of {arm.average!r}, which it averages; leave it out"
        )


def training_of(arm: Arm, shared: Train) -> Training:
    """Return the settings of an arm's final training: those of `[train]` with the arm's own laid over them."""
    return Training.model_validate({**shared.model_dump(), **arm.training})


def built_in_recipes() -> list[str]:
    """Return the names of the recipes that come with thaw."""
    return sorted(Path(item.name).stem for item in BUILT_IN.iterdir() if item.name.endswith(".toml"))


def recipe_text(name_or_file: str) -> str:
    """Return the TOML text of a built-in recipe or of a file. Raises RecipeError if there is none."""
    if name_or_file in built_in_recipes():
        return (BUILT_IN / f"{name_or_file}.toml").read_text(encoding="utf-8")
    path = Path(name_or_file)
    if not path.is_file():
        near = _near(name_or_file, built_in_recipes())
        hint = f" ({near})" if near else f"; the built-in recipes are {', '.join(built_in_recipes())}"
        raise RecipeError(f"there is no built-in recipe or file named {name_or_file!r}{hint}.")
    try:
        if path.stat().st_size > MAX_BYTES:
            raise RecipeError(f"{path} is larger than {MAX_BYTES >> 20} MiB, too large for a recipe; give a TOML file.")
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} cannot be read as a recipe ({error}); give a TOML file in UTF-8.") from error


def load_recipe(name_or_file: str, source: str | None = None, settings: tuple[str, ...] = ()) -> Recipe:
    """Read a recipe and apply the settings of the command line.

    Parameters
    ----------
    name_or_file
        The name of a built-in recipe or a TOML file. Paths in a file are relative to it.
    source
        Replaces `data.source`; relative to the current folder.
    settings
        `key.path=value` each, the value in TOML or a bare string; an empty value removes the key from the recipe. Paths
        are relative to the current folder.

    Returns
    -------
    Recipe
        Checked, with absolute paths.

    Raises
    ------
    RecipeError
        With all problems in one sentence.
    """
    try:
        values = tomllib.loads(recipe_text(name_or_file))
    except ValueError as error:
        raise RecipeError(f"{name_or_file} is not valid TOML: {error}; fix that line.") from error
    except RecursionError as error:
        raise RecipeError(f"{name_or_file} nests tables or lists too deeply for a recipe; fix it.") from error
    stem = Path(name_or_file).stem
    values.setdefault("name", stem)
    if name_or_file not in built_in_recipes():
        _resolve_paths(values, Path(name_or_file).resolve().parent)
    overrides: dict[str, Any] = {"data": {"source": source}} if source is not None else {}
    for setting in settings:
        _set(overrides, setting)
    _resolve_paths(overrides, Path.cwd())
    recipe = validate(_merge(values, overrides), f"recipe {stem}", Recipe)
    try:
        to_toml(recipe).encode("utf-8")
    except UnicodeEncodeError as error:
        name = error.object[error.start - 20 : error.end + 20]
        raise RecipeError(f"{name!r} is not UTF-8 text, as a recipe must be; rename that file or folder.") from error
    return recipe


def validate(values: dict[str, Any], where: str, kind: type[Valid]) -> Valid:
    """Return settings of a kind, such as Recipe, from plain values.

    Parameters
    ----------
    values
        Tables as dictionaries, as TOML gives them.
    where
        What the values belong to, to begin the message of an error with.
    kind
        The class of the settings.

    Raises
    ------
    RecipeError
        With all problems at once.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problems = dict.fromkeys(_problem(dict(item), kind) for item in error.errors(include_url=False))
        raise RecipeError(f"{where}: {'; '.join(problems)}.") from error


def to_toml(settings: Settings) -> str:
    """Return settings, such as a recipe, defaults included, as TOML text that reads back to equal ones."""
    values = settings.model_dump(exclude_none=True)
    first = [name for name in ("name", "data") if name in values]  # then the others in their order
    return str(tomlkit.dumps({name: values[name] for name in dict.fromkeys([*first, *values])}))


def _set(values: dict[str, Any], setting: str) -> None:
    key, equals, text = setting.partition("=")
    if not equals or not key.strip():
        raise RecipeError(f"--set {setting!r} has no value; write it as key.path=value.")
    value: Any = text if text.strip() else None
    with contextlib.suppress(ValueError, RecursionError):
        value = tomllib.loads(f"value = {text}")["value"]
    *path, last = key.strip().split(".")
    if len(path) > 3:
        raise RecipeError(f"--set {setting!r} is nested deeper than any key; write it as key.path=value.")
    for part in path:
        values = values.setdefault(part, {})
        if not isinstance(values, dict):
            raise RecipeError(f"--set {setting!r} conflicts with another --set that sets {part!r} itself; keep one.")
    values[last] = value


def _merge(base: dict[str, Any], over: dict[str, Any], path: tuple[str, ...] = ()) -> dict[str, Any]:
    """Merge `over` into a copy of `base`, where None removes a key; `path` is their place in the recipe."""
    merged = dict(base)
    for key, value in over.items():
        below = base.get(key)
        if isinstance(value, dict):
            merged[key] = _merge(below if isinstance(below, dict) else {}, value, (*path, key))
        elif value is None:
            _, keys = _section([*path, key], Recipe)
            if key not in base and (key not in keys or path == ("arms",)):
                near = _near(key, [*base, *keys]) or "leave it out"
                raise RecipeError(f"--set {'.'.join([*path, key])}= removes a key that is not there ({near}).")
            merged.pop(key, None)
        else:
            merged[key] = value
    return merged


def _resolve_paths(values: dict[str, Any], folder: Path) -> None:
    """Make the paths in `values` absolute, in place: sources, corrected labels, and weights given as files."""
    data, model, arms = (values.get(key) for key in ("data", "model", "arms"))
    if isinstance(data, dict) and isinstance(source := data.get("source"), str) and not _is_name(source):
        data["source"] = _absolute(folder, source)
    if isinstance(data, dict) and isinstance(labels := data.get("labels"), str):
        data["labels"] = _absolute(folder, labels)
    if isinstance(data, dict) and isinstance(shifted := data.get("shifted"), dict):
        for name, of in shifted.items():
            shifted[name] = _absolute(folder, of) if isinstance(of, str) and not _is_name(of) else of
    for table in [model, *(arms.values() if isinstance(arms, dict) else ())]:
        weights = table.get("weights") if isinstance(table, dict) else None
        if isinstance(weights, str) and weights.endswith(".safetensors") and not _is_name(weights):
            table["weights"] = _absolute(folder, weights)
    sweep = values.get("sweep")
    if isinstance(sweep, dict) and isinstance(backbones := sweep.get("backbones"), list):
        sweep["backbones"] = [_with_file(folder, one) for one in backbones]


def _with_file(folder: Path, network: Any) -> Any:
    """A network of `sweep.backbones`, with an absolute path where its weights are a file."""
    backbone, at, weights = network.partition("@") if isinstance(network, str) else ("", "", "")
    return f"{backbone}{at}{_absolute(folder, weights)}" if weights.endswith(".safetensors") else network


def _absolute(folder: Path, path: str) -> str:
    try:
        return str((folder / Path(path).expanduser()).resolve())
    except (OSError, ValueError, RuntimeError) as error:
        shown = path if len(path) < 100 else f"{path[:100]}..."
        raise RecipeError(f"{shown!r} is not a valid path ({error}); fix it.") from error


def _is_name(value: str) -> bool:
    return value.startswith(("hf:", "thaw:"))


def _problem(item: dict[str, Any], kind: type[BaseModel]) -> str:
    """Say in a clause what is wrong with the key of one of pydantic's errors."""
    if item["type"] == "value_error":  # a sentence of this module's own
        return str(item["msg"]).removeprefix("Value error, ")
    names = [str(part) for part in item["loc"]]
    section, fields = _section(names, kind)
    if item["type"] == "extra_forbidden":
        where = section or ("a recipe" if kind is Recipe else "the settings")
        hint = _near(names[-1], fields) or f"the keys of {where} are {', '.join(fields)}"
        return f"unknown key {'.'.join(names)!r} ({hint})"
    # pydantic appends the type that it tried of a union to the location; the key is what comes before
    key = ".".join(names[: section.count(".") + 2] if section else names[:1])
    if item["type"] == "missing":
        return f"the key {key!r} is missing"
    wanted = str(item["msg"]).partition(" should ")[2].partition(" after validation")[0]
    if item["type"] in ("model_type", "dict_type"):
        wanted = "be a table"
    if section and (union := UNIONS.get(key.split(".")[-1])):
        wanted = f"be {union}"
    return f"{key} = {_shown(item['input'])} should {wanted}"


def _shown(value: Any) -> str:
    """Return a value as Python writes it, cut off where it is long."""
    try:
        text = repr(value)
    except ValueError:  # an integer written in hexadecimal may have more decimal digits than Python writes
        return "a number of thousands of digits"
    return text if len(text) <= 100 else f"{text[:100]}..."


def _section(names: list[str], kind: type[BaseModel]) -> tuple[str, list[str]]:
    """Return the longest prefix of `names` that is a section, and the keys of that section."""
    if names[0] == "arms" and len(names) > 2:
        return f"arms.{names[1]}", list(Arm.model_fields)
    if names[0] == "published" and len(names) > 2:
        return f"published.{names[1]}", list(Published.model_fields)
    field = kind.model_fields.get(names[0])
    if len(names) > 1 and field is not None and isinstance(field.annotation, type):
        annotation = field.annotation
        if issubclass(annotation, Section):
            return names[0], list(annotation.model_fields)
    return "", list(kind.model_fields)


def _near(word: str, known: list[str]) -> str:
    """Return "did you mean ...?" with the known word nearest to `word`, or nothing if none is near."""
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {near[0]!r}?" if near else ""
