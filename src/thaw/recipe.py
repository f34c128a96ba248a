"""A recipe says everything about a study: typed settings, read from TOML, every problem reported at once."""

import contextlib
import difflib
import re
import tomllib
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import tomlkit
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from thaw.errors import RecipeError

BUILT_IN = resources.files("thaw.recipes")
MAX_BYTES = 1 << 20
ARM_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")

Positive = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(gt=0, lt=float("inf"))]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Part = Positive | Fraction | Annotated[str, Field(min_length=1)]
Triple = Annotated[list[float], Field(min_length=3, max_length=3)]

# what a key that takes several types wants, by its last name
UNIONS = {
    "validation": "the name of a split, a number of images or a fraction between 0 and 1",
    "test": "the name of a split, a number of images or a fraction between 0 and 1",
    "train": "'all', 'head', 'last-stage', 'norm', 'bias', 'lora', or a list of module names",
}


class Section(BaseModel):
    """A table of a recipe: unknown keys and values of another type are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)


class Data(Section):
    """Which images, and how they are split."""

    source: str
    """Where the labelled images come from: a folder with a folder per class, a CSV or Parquet table, a Hugging Face
    dataset folder, `hf:NAME` for one on the hub, or `thaw:emoji-people` for the embedded example."""
    image: str = "image"
    """The column that holds the pictures, or their paths relative to the table."""
    label: str = "label"
    """The column that holds the classes: names, integers or a `ClassLabel`."""
    split: str | None = None
    """A column of a table that names the split of each row; folders and datasets bring their splits themselves."""
    group: str | None = None
    """A column whose values never straddle two splits: a person, a patient, a drawing in several colours."""
    slices: list[str] | None = None
    """Columns to report results by. Left out, every other column that holds numbers or 2 to 30 distinct values."""
    validation: Part | None = None
    """The validation set: the name of a split that the source brings, or a number or fraction of images to draw. Left
    out, it is the source's split of that name, else 15% drawn."""
    test: Part | None = None
    """The test set, in the same terms. Nothing looks at it before every choice is made."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Which images are drawn."""
    on_bad_image: Literal["skip", "fail"] = "skip"
    """What a picture does that cannot be read or decoded: `skip` leaves it out and lists it with the reason, `fail`
    stops the study."""
    max_bad_share: Annotated[float, Field(ge=0, le=1)] = 0.1
    """The share of pictures that may be left out so; a study with more of them is refused."""


class Images(Section):
    """How a picture becomes an array; what is left out follows from the backbone's weights."""

    size: Positive | None = None
    """Pixels of each side of the square that the network sees."""
    resize: Literal["squash", "crop"] | None = None
    """`squash` brings both sides to size; `crop` keeps the aspect ratio and cuts out the centre."""
    interpolation: Literal["bilinear", "bicubic"] | None = None
    """The resampling filter, antialiased."""
    mean: Triple | None = None
    """Mean of red, green and blue, in units of the full range."""
    std: Triple | None = None
    """Standard deviation of red, green and blue, in units of the full range."""
    decode: Literal["exact", "fast"] = "exact"
    """`exact` decodes the full picture; `fast` lets the JPEG decoder shrink it first where it is much larger."""


class Model(Section):
    """The network that every arm trains."""

    backbone: str
    """A torchvision or timm classification model: `torchvision/alexnet`, `timm/resnet50`."""
    weights: str
    """`random`; a name of the library's pretrained weights, such as `IMAGENET1K_V1`; a `.safetensors` file; or
    `thaw:mobilenet_v2` for the embedded ones."""
    frozen: Literal["eval", "train"] = "eval"
    """The mode of dropout and stochastic depth before the first trained layer. `eval` switches them off, so that more
    of the network is computed once; `train` keeps them active."""


class Search(Section):
    """The learning-rate search: the same budget for every arm."""

    method: Literal["grid", "halving"] = "grid"
    """`grid` tries each of `learning_rates`. `halving` tries `trials` rates spread over `range`, keeps the better half,
    tries these anew for twice the steps, and so on to the last one; while the winner lies at an edge, the range is
    widened there, at most twice."""
    learning_rates: Annotated[list[Rate], Field(min_length=1)] = [1e-5, 1e-4, 1e-3]
    """The rates of a grid, each from the same start; the best accuracy on validation wins."""
    range: Annotated[list[Rate], Field(min_length=2, max_length=2)] = [1e-5, 1e-1]
    """The lowest and the highest rate of a halving."""
    trials: Annotated[int, Field(ge=2, le=256)] = 8
    """Rates that a halving begins with, evenly spaced on a logarithmic scale."""
    steps: Positive = 15
    """Optimiser steps of each trial, of the first round in a halving; all at a constant rate."""

    @field_validator("range")
    @classmethod
    def _ascending(cls, bounds: list[float]) -> list[float]:
        if bounds[0] >= bounds[1]:
            raise ValueError(f"search.range = {bounds} should be the lowest rate, then the highest")
        return bounds


class Train(Section):
    """The final training of every arm."""

    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    """torch's Adam, AdamW, or SGD with momentum 0.9."""
    weight_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Of weight matrices and kernels; biases and normalisation are left alone."""
    schedule: Literal["constant", "cosine"] = "constant"
    """How the learning rate goes on in the final training: `cosine` falls to zero along half a cosine."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the final training's steps over which the rate first rises in a line."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of each label that is spread over all classes."""
    class_weights: Literal["none", "balanced"] = "none"
    """`balanced` weighs each class in the loss by the inverse of its share of the training images."""
    flips: bool = False
    """Train on each image or its mirror image, drawn anew every epoch; both views are cached."""
    batch_size: Positive = 512
    """Images of one step, in the search too."""
    epochs: Positive = 3
    """Passes over the training images."""
    refit: Literal["train+validation", "train"] = "train+validation"
    """What the final training sees once the rate is chosen."""
    patience: Positive | None = None
    """Stop after this many epochs without a better validation score, and keep the best epoch; needs
    `refit = "train"`."""
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] = [0]
    """Each seed repeats search, training and test of every arm: other heads, batches and dropout masks."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`fp32` is the exact reference; `auto` takes bf16 where the hardware computes in it."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """`auto` takes the first of CUDA, MPS and CPU that is there."""

    @model_validator(mode="after")
    def _held_out(self) -> "Train":
        if self.patience and self.refit != "train":
            raise ValueError(
                'train.patience needs validation images that are not trained on; set train.refit = "train"'
            )
        return self

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds):
            raise ValueError("seeds must differ from each other")
        return seeds


class Cache(Section):
    """What is kept of work that cannot change."""

    activations: Literal["auto", "off"] = "auto"
    """`off` runs the whole network at every step; the result is the same."""


class Arm(Section):
    """One way of training the backbone."""

    train: str | Annotated[list[str], Field(min_length=1)]
    """`all`; `head`; `last-stage`, from the last reduction of the resolution on; `norm`, normalisation layers and the
    head; `bias`, all biases and the head (BitFit); `lora`, low-rank adapters on linear layers and the head; or module
    names or globs: `["classifier.4", "features.1?"]`."""
    weights: str | None = None
    """Where this arm starts; `model.weights` unless given."""
    probe: bool = False
    """Train the head alone first and go on from there (linear probe, then fine-tune: LP-FT)."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """The learning rate of each block relative to that of the block after it; the head has the full rate."""
    rank: Positive = 8
    """Of the adapters of `train = "lora"`."""


class Recipe(Section):
    """A whole study."""

    name: str = "study"
    """How the study is called in its report."""
    data: Data
    images: Images = Images()
    model: Model
    search: Search = Search()
    train: Train = Train()
    cache: Cache = Cache()
    arms: Annotated[dict[str, Arm], Field(min_length=1)]

    @field_validator("arms")
    @classmethod
    def _plain_names(cls, arms: dict[str, Arm]) -> dict[str, Arm]:
        for name in arms:
            if not ARM_NAME.fullmatch(name):
                raise ValueError(f"the arm name {name!r} needs to be letters, digits, '.', '_' and '-'")
        if len({name.lower() for name in arms}) < len(arms):
            raise ValueError("arm names must differ by more than upper and lower case")
        return arms

    def weights_of(self, arm: str) -> str:
        """The weights that an arm starts from."""
        return self.arms[arm].weights or self.model.weights


def built_in_recipes() -> list[str]:
    """Names of the recipes that come with thaw."""
    return sorted(Path(item.name).stem for item in BUILT_IN.iterdir() if item.name.endswith(".toml"))


def recipe_text(name_or_file: str) -> str:
    """The TOML text of a built-in recipe or of a file. Raises RecipeError where there is none."""
    if name_or_file in built_in_recipes():
        return (BUILT_IN / f"{name_or_file}.toml").read_text(encoding="utf-8")
    path = Path(name_or_file)
    if not path.is_file():
        near = _near(name_or_file, built_in_recipes()) or f"built in are {', '.join(built_in_recipes())}"
        raise RecipeError(f"there is no recipe {name_or_file!r}, neither built in nor a file; {near}.")
    try:
        if path.stat().st_size > MAX_BYTES:
            raise RecipeError(f"{path} is larger than {MAX_BYTES >> 20} MiB, which no recipe is; give a recipe file.")
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} cannot be read as a recipe: {error}; give a TOML file in UTF-8.") from error


def load_recipe(name_or_file: str, source: str | None = None, settings: tuple[str, ...] = ()) -> Recipe:
    """Read a recipe and lay the command line over it.

    Paths in a recipe file are relative to that file; those in `source` and `settings` to the current folder. A setting
    is `key.path=value`, the value in TOML or a bare string; an empty one takes the key out of the recipe. Raises
    RecipeError naming every problem at once.
    """
    try:
        values = tomllib.loads(recipe_text(name_or_file))
    except ValueError as error:
        raise RecipeError(f"{name_or_file} is not valid TOML: {error}; mend that line.") from error
    except RecursionError as error:
        raise RecipeError(f"{name_or_file} nests tables or lists too deeply, which no recipe does; mend it.") from error
    stem = Path(name_or_file).stem
    values.setdefault("name", stem)
    if name_or_file not in built_in_recipes():
        _resolve_paths(values, Path(name_or_file).resolve().parent)
    overrides: dict[str, Any] = {"data": {"source": source}} if source is not None else {}
    for setting in settings:
        _set(overrides, setting)
    _resolve_paths(overrides, Path.cwd())
    recipe = validate(_merge(values, overrides), where=f"recipe {stem}")
    try:
        to_toml(recipe).encode("utf-8")
    except UnicodeEncodeError as error:
        name = error.object[error.start - 20 : error.end + 20]
        raise RecipeError(f"{name!r} is no UTF-8 text, which a recipe is; rename that file or folder.") from error
    return recipe


def validate(values: dict[str, Any], where: str = "recipe") -> Recipe:
    """A Recipe from plain values. Raises RecipeError with every problem in one sentence."""
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        problems = dict.fromkeys(_problem(dict(item)) for item in error.errors(include_url=False))
        raise RecipeError(f"{where}: {'; '.join(problems)}".rstrip("?") + ".") from error


def to_toml(recipe: Recipe) -> str:
    """The resolved recipe as TOML text, which reads back to an equal recipe."""
    return str(tomlkit.dumps(recipe.model_dump(exclude_none=True)))


def _set(values: dict[str, Any], setting: str) -> None:
    key, equals, text = setting.partition("=")
    if not equals or not key.strip():
        raise RecipeError(f"--set {setting!r} has no value; write it as key.path=value.")
    value: Any = text if text.strip() else None
    with contextlib.suppress(ValueError, RecursionError):
        value = tomllib.loads(f"value = {text}")["value"]
    *path, last = key.strip().split(".")
    if len(path) > 3:
        raise RecipeError(f"--set {setting!r} goes deeper than any key; write it as key.path=value.")
    for part in path:
        values = values.setdefault(part, {})
        if not isinstance(values, dict):
            raise RecipeError(f"--set {setting!r} goes below {part!r}, which another --set gives a value; keep one.")
    values[last] = value


def _merge(base: dict[str, Any], over: dict[str, Any], path: tuple[str, ...] = ()) -> dict[str, Any]:
    """`base` with `over` laid on it, where None takes a key away. `path` is where in the recipe that is."""
    merged = dict(base)
    for key, value in over.items():
        below = base.get(key)
        if isinstance(value, dict):
            merged[key] = _merge(below if isinstance(below, dict) else {}, value, (*path, key))
        elif value is None:
            _, keys = _section([*path, key])
            if key not in base and (key not in keys or path == ("arms",)):
                near = _near(key, [*base, *keys]) or "leave it out."
                raise RecipeError(f"--set {'.'.join([*path, key])}= takes out what is not there; {near}")
            merged.pop(key, None)
        else:
            merged[key] = value
    return merged


def _resolve_paths(values: dict[str, Any], folder: Path) -> None:
    """Make the paths in `values` absolute, in place: the source, and weights that are a file."""
    data, model, arms = (values.get(key) for key in ("data", "model", "arms"))
    if isinstance(data, dict) and isinstance(source := data.get("source"), str) and not _is_name(source):
        data["source"] = _absolute(folder, source)
    for table in [model, *(arms.values() if isinstance(arms, dict) else ())]:
        weights = table.get("weights") if isinstance(table, dict) else None
        if isinstance(weights, str) and weights.endswith(".safetensors") and not _is_name(weights):
            table["weights"] = _absolute(folder, weights)


def _absolute(folder: Path, path: str) -> str:
    try:
        return str((folder / Path(path).expanduser()).resolve())
    except (OSError, ValueError, RuntimeError) as error:
        shown = path if len(path) < 100 else f"{path[:100]}..."
        raise RecipeError(f"{shown!r} is no path that can be ({error}); mend it.") from error


def _is_name(value: str) -> bool:
    return value.startswith(("hf:", "thaw:"))


def _problem(item: dict[str, Any]) -> str:
    names = [str(part) for part in item["loc"]]
    section, fields = _section(names)
    if item["type"] == "extra_forbidden":
        near = _near(names[-1], fields) or f"{section or 'a recipe'} has {', '.join(fields)}"
        return f"unknown key {'.'.join(names)!r}, {near}"
    # pydantic appends the tried type of a union to the location; a key ends where the recipe's own names do
    key = ".".join(names[: section.count(".") + 2] if section else names[:1])
    wanted = str(item["msg"]).removeprefix("Input should be ")
    if item["type"] == "missing":
        return f"the key {key!r} is missing"
    if item["type"] == "value_error":
        return wanted.removeprefix("Value error, ")
    return f"{key} = {item['input']!r} should be {UNIONS.get(key.split('.')[-1] if section else '', wanted)}"


def _section(names: list[str]) -> tuple[str, list[str]]:
    """The longest prefix of `names` that is a section, and the keys which that section has."""
    if names[0] == "arms" and len(names) > 2:
        return f"arms.{names[1]}", list(Arm.model_fields)
    field = Recipe.model_fields.get(names[0])
    if len(names) > 1 and field is not None and isinstance(field.annotation, type):
        annotation = field.annotation
        if issubclass(annotation, Section):
            return names[0], list(annotation.model_fields)
    return "", list(Recipe.model_fields)


def _near(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {near[0]!r}?" if near else ""
