"""`metrics.json`: every number of a study, as one typed, versioned model."""

import json
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, StringConstraints, ValidationError, model_validator

from thaw.audit.label_errors import LabelErrorSummary
from thaw.audit.results import Audit, Split
from thaw.data.skipped import Skipped
from thaw.errors import StorageError
from thaw.recipe import ARM_NAME, Metric, Recipe
from thaw.recipe import Verdict as VerdictSettings
from thaw.record import Record
from thaw.run.doubt import Doubt, measure_doubt
from thaw.run.repeats import Repeats, score_repeats
from thaw.run.results import StudyResult
from thaw.run.shift import score_study_sets
from thaw.scoring.agreement import Agreement, measure_agreement
from thaw.scoring.baselines import Baselines, baselines
from thaw.scoring.calibration import Calibration, calibrate
from thaw.scoring.comparison import Comparison, CostStep, compare, cost_steps
from thaw.scoring.contributions import contributions
from thaw.scoring.curves import Curves, trace_curves
from thaw.scoring.intervals import ClassScores, ScoreIntervals, all_intervals, class_scores
from thaw.scoring.labels import Labels, Share, label_curves
from thaw.scoring.metrics import Scores
from thaw.scoring.shift import SetScores
from thaw.scoring.slices import ColumnScores, score_slices
from thaw.scoring.verdict import Judged, Verdict, judge
from thaw.training.results import (
    Attempt,
    Epoch,
    Frontier,
    HeadFit,
    NetworkFacts,
    Parameters,
    Thawed,
    TrialRecord,
    TrialResult,
    TrialSeconds,
)
from thaw.versions import versions

FILE = "metrics.json"
FORMAT: Literal[1] = 1
"""Changes when a required key is added, or a key is renamed, removed or means something else."""

METRICS: dict[Metric, str] = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "log_loss": "log likelihood",
    "auroc": "AUROC",
    "average_precision": "average precision",
}
"""The verdict's metrics in words; more is better, so the log loss is told as the log likelihood."""
COSTS = {
    "train seconds": "time of search and training",
    "inference": "parameters at inference",
    "trained parameters": "trained parameters",
}
"""What may make an arm cheaper, in words."""

ArmName = Annotated[str, StringConstraints(pattern=f"^(?:{ARM_NAME.pattern})$")]
Precision = Literal["fp32", "bf16"]


class DataFacts(Record):
    """Where the images come from, and how they were split."""

    source: str
    """The recipe's `data.source`."""
    fingerprint: str
    """A digest of the images and their labels."""
    splits: str
    """A digest of which image is in which split."""
    how: dict[str, str]
    """For each split, how its images were chosen; under `unused`, what of the source is in none."""
    group: str | None
    """The group column, whose values never straddle splits."""
    counts: dict[Split, dict[str, int]]
    """Images of each class in each split."""
    skipped: list[Skipped]
    """Files or rows that were left out."""


class ImageFacts(Record):
    """How an image becomes the network's input."""

    size: int | tuple[int, int]
    """Pixels of each side, or height and width where they differ."""
    resize: Literal["squash", "crop", "letterbox"]
    """`squash` scales both sides to `size`. The others keep the aspect ratio: `crop` lets the image just cover
    `size / crop` and cuts out the centre, `letterbox` fits it inside `size` and pads it with the mean colour."""
    interpolation: str
    """The resampling filter, such as `bilinear`; antialiased."""
    crop: float
    """The fraction of each side that `crop` keeps."""
    mean: tuple[float, float, float]
    """Mean of each channel, subtracted from values between 0 and 1."""
    std: tuple[float, float, float]
    """Standard deviation of each channel, by which they are divided."""
    depth: tuple[float, float] | None = None
    """The values of grey images of more than 8 bits that become black and white; null where there are none."""
    decode: Literal["exact", "fast"]
    """How JPEG files are decoded."""


class ModelFacts(Record):
    """The network that every arm trains."""

    backbone: str
    """Its name, such as `torchvision/alexnet`."""
    weights: str
    """The pretrained weights."""
    frozen: Literal["eval", "train"]
    """The mode of frozen dropout and stochastic depth while training."""
    head: str
    """The name of the new head."""
    precision: Precision
    """What the study trains in."""
    features: str
    """The cache key of the features of every image, by which `thaw serve` finds similar ones."""


class TrialMetrics(Record):
    """A trial: one arm with one seed."""

    seed: int
    """The seed."""
    learning_rate: float | None
    """The learning rate that the search chose; null where the head is fitted."""
    edge: Literal["lowest", "highest"] | None
    """Set when that is the lowest or highest learning rate tried, so that a better one may lie beyond."""
    search: list[Attempt]
    """The learning rates tried, in order; none where the head is fitted."""
    tied: list[float]
    """Other learning rates that the validation images cannot tell from the chosen one."""
    learned: bool
    """Whether any attempt of the search beat always naming the commonest class, beyond chance."""
    fit: HeadFit | None = None
    """How the head was fitted, where the arm has `head = "linear"`, `"knn"` or `"prototype"`."""
    epochs: list[Epoch]
    """The epochs of the final training; none where the head is fitted."""
    rehearsal: list[Epoch] | None
    """Those of the training on the training images alone before it; None without `train.rehearse`."""
    stopped: str | None
    """Why training ended before its last epoch."""
    probe: HeadFit | None
    """The linear probe before the search, where the arm has `probe = true`."""
    test: Scores
    """Scores on the test images."""
    precision: Precision
    """What it trained in; fp32 where bf16 diverged."""
    seconds: TrialSeconds
    """What each stage took."""


class MeanDeviation(Record):
    """A score over the seeds."""

    mean: float
    """The mean."""
    deviation: float | None
    """The sample standard deviation; None with one seed."""


class SeedScores(Record):
    """The scores on the test images over all seeds."""

    accuracy: MeanDeviation
    """Accuracy."""
    precision: MeanDeviation
    """Precision, weighted by class support."""
    recall: MeanDeviation
    """Recall, weighted by class support."""
    f1: MeanDeviation
    """F1, weighted by class support."""
    balanced_accuracy: MeanDeviation
    """Mean recall of the classes."""
    macro_f1: MeanDeviation
    """Mean F1 of the classes."""
    log_loss: MeanDeviation
    """Mean cross-entropy."""
    brier: MeanDeviation
    """Brier score."""
    auroc: MeanDeviation
    """Area under the ROC curve, averaged over the classes."""
    average_precision: MeanDeviation
    """Average precision, averaged over the classes."""
    top5: MeanDeviation | None
    """Fraction among the five most probable classes; None with fewer than ten classes."""


class ArmMetrics(TrialMetrics):
    """An arm: the trial with the first seed, and what all its trials show together."""

    weights: str
    """The weights it starts from, or `random`."""
    train: str | list[str]
    """What it trains, as in the recipe."""
    parameters: Parameters
    """How many parameters the network has, and how many train."""
    thawed: Thawed | None = None
    """How deep it thaws, where it starts from the study's weights and trains everything from one layer on."""
    frontier: Frontier
    """What of the network is computed once per image."""
    channels_last: bool
    """Whether the convolutions that train have their channels last in memory; it changes rounding."""
    intervals: ScoreIntervals
    """95% intervals of the mean scores."""
    over_seeds: SeedScores
    """Scores over the seeds."""
    classes: list[ClassScores]
    """How it does on each class, in order."""
    curves: Curves | None
    """ROC and precision-recall curves, with the first seed; None with more than two classes."""
    calibration: Calibration
    """How well confidence matches accuracy, with the first seed."""
    doubt: Doubt | None = None
    """What it says besides its most probable class, with the first seed."""
    trials: list[TrialMetrics]
    """One for each seed, in the order of the recipe."""


class StudySeconds(Record):
    """Wall-clock seconds of a study, in total and of each stage, by the run that finished it."""

    total: float
    """From reading the source to the last number; the report is written after that."""
    pixels: float = 0.0
    """Decoding and resizing."""
    audit: float = 0.0
    """The audit, with the effect of a leak."""
    plan: float = 0.0
    """Building and splitting every network once."""
    trials: float = 0.0
    """All trials."""
    repeats: float = 0.0
    """Those on other draws of the split."""
    activations: float = 0.0
    """Of the trials: building and splitting networks, and activations that were not cached yet."""
    features: float = 0.0
    """Features of every image."""
    label_errors: float = 0.0
    """The search for wrong labels."""
    heat_maps: float = 0.0
    """Heat maps of the images that the report shows."""


class Metrics(Record):
    """Every number of a finished study."""

    format: Literal[1]
    """The version of this format."""
    thaw: str
    """The version of thaw that wrote it."""
    recipe: str
    """The recipe's name."""
    command: str
    """What to type to run the study again; empty where it was started from Python."""
    classes: list[str]
    """The classes, in the order of confusion matrices and logits."""
    splits: dict[Split, int]
    """Images in each split."""
    data: DataFacts
    """Where the images come from, and how they were split."""
    audit: Audit
    """What is wrong or odd about them."""
    images: ImageFacts
    """How they are preprocessed."""
    model: ModelFacts
    """The network."""
    arms: dict[ArmName, ArmMetrics]
    """Each arm, in the order of the recipe."""
    baselines: Baselines
    """What rules without a network score on the test images."""
    best: str
    """The arm that is best on the test images by the verdict's metric, the mean over its seeds."""
    comparisons: list[Comparison]
    """Every pair of arms."""
    recommended: str
    """The arm to use."""
    rule: str
    """The rule that recommends it."""
    verdict: Verdict
    """How sure it is that the arm to use is the best, what it should score on new images, and what the others lose."""
    labels: Labels | None = None
    """How the arms do with fewer labels; null unless the recipe sweeps them. All else is of all training images."""
    repeats: Repeats | None = None
    """The arms on several draws of the split; null unless the recipe has `data.repeats`. All else is of the first."""
    costs: list[CostStep]
    """What each further point of accuracy costs, from the cheapest arm to the most accurate."""
    slices: list[ColumnScores]
    """Accuracy by the values of each column."""
    agreement: Agreement
    """Whether the arms are right on the same images."""
    label_errors: LabelErrorSummary
    """How many labels are probably wrong."""
    shifted: dict[str, SetScores] = Field(default_factory=dict)
    """Each further test set of `data.shifted`, then each of `data.corruptions`."""
    seconds: StudySeconds
    """Wall-clock seconds, in total and of each stage."""

    @model_validator(mode="after")
    def _known_arms(self) -> Self:
        for name in (self.best, self.recommended):
            if name not in self.arms:
                raise ValueError(f"there is no arm {name!r}")
        return self


def verdict_of(settings: VerdictSettings, judged: Judged, commonest: NDArray[np.float64]) -> Verdict:
    """Return a verdict with the settings that it was reached by.

    Parameters
    ----------
    settings
        The recipe's.
    judged
        See `judge`.
    commonest
        (n,) what always answering the commonest class adds to the metric on each test image.
    """
    baseline = float(commonest.mean())
    return Verdict(**settings.model_dump(), expected=judged.expected, baseline=baseline, arms=judged.arms)


def make_metrics(result: StudyResult, seconds: dict[str, float], command: str) -> Metrics:
    """Compute every number of a finished study.

    Parameters
    ----------
    result
        What the study found.
    seconds
        Wall-clock seconds, `total` and by stage.
    command
        What to type to run the study again.
    """
    recipe, dataset, trials = result.recipe, result.dataset, result.trials()
    source, splits = dataset.source, dataset.splits
    labels, groups = result.test_labels(), result.test_groups()
    predicted = {arm: np.stack([one.logits.argmax(1) for one in of_arm]) for arm, of_arm in trials.items()}
    right = {arm: of_seeds == labels for arm, of_seeds in predicted.items()}
    accuracy = {arm: float(of_seeds.mean()) for arm, of_seeds in right.items()}
    trained = {arm: of_arm[0].record.network.parameters.trainable for arm, of_arm in trials.items()}
    spent = {arm: mean_fit_seconds([one.record.seconds for one in of_arm]) for arm, of_arm in trials.items()}
    metric = recipe.verdict.metric
    values = _values(result)
    commonest = contributions(metric, labels, np.tile(_class_logits(result), (len(labels), 1)))
    judged = judge(values, _costs(recipe, trials), recipe.verdict.margin, commonest, groups)
    arms = {arm: _arm(result, trials[arm], accuracy[arm]) for arm in trials}
    return Metrics(
        format=FORMAT,
        thaw=versions("thaw-vision")["thaw-vision"],
        recipe=recipe.name,
        command=command,
        classes=list(source.classes),
        splits=result.audit.splits,
        data=DataFacts(
            source=recipe.data.source,
            **dataset.identity(),
            how=splits.how,
            group=recipe.data.group,
            counts={
                split: {
                    name: int((source.labels[splits.rows()[split]] == code).sum())
                    for code, name in enumerate(source.classes)
                }
                for split in result.audit.splits
            },
            skipped=list(source.skipped),
        ),
        audit=result.audit,
        images=ImageFacts(**asdict(dataset.preprocessing), decode=recipe.images.decode),
        model=ModelFacts(
            **recipe.model.model_dump(),
            head=result.results[0].record.network.head,
            precision=_precision(result.compute.precision),
            features=result.features,
        ),
        arms=arms,
        baselines=baselines(
            source.classes,
            *(
                np.bincount(source.labels[of_split], minlength=len(source.classes))
                for of_split in (splits.train, splits.test)
            ),
        ),
        best=judged.best,
        comparisons=compare(values, groups),
        recommended=judged.recommended,
        rule=rule(recipe.verdict),
        verdict=verdict_of(recipe.verdict, judged, commonest),
        labels=_labels(result),
        repeats=score_repeats(result, judged.best),
        costs=cost_steps(accuracy, trained, spent),
        slices=score_slices(result.test_slices(), right, groups),
        agreement=measure_agreement(labels, {arm: of_seeds[0] for arm, of_seeds in predicted.items()}),
        label_errors=result.label_errors.summary(source.classes, source.labels),
        shifted=score_study_sets(result, {arm: it.calibration.temperature for arm, it in arms.items()}),
        seconds=StudySeconds(**seconds, activations=sum(one.record.seconds.prepare for one in result.results)),
    )


def read_metrics(folder: Path) -> Metrics:
    """Read the `metrics.json` of a finished run. Raises StorageError where there is none of this format."""
    path = folder / FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        if (folder / "networks.json").exists():
            raise StorageError(f"{folder} holds several networks; give {folder / 'networks' / 'NAME'}.") from error
        raise StorageError(f"{folder} is not a finished run: it has no {FILE}; run the study first.") from error
    except (OSError, ValueError) as error:
        raise StorageError(f"{path} cannot be read: {error}; run the study again.") from error
    given = content.get("format") if isinstance(content, dict) else None
    if given != FORMAT:
        told = "no format number" if given is None else f"format {given!r}"
        raise StorageError(f"{path} has {told}, and this version of thaw reads format {FORMAT}; run the study again.")
    try:
        return Metrics.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "it"
        raise StorageError(f"{path} is damaged: {where}: {first['msg']}; run the study again.") from error


def rule(settings: VerdictSettings) -> str:
    """Say in a clause which arm a recipe's `[verdict]` recommends."""
    best = f"the best arm by {METRICS[settings.metric]}"
    if settings.cost == "none":
        return best
    return (
        f"the arm with the least {COSTS[settings.cost]} of those shown to lose no more than {settings.margin:g} "
        f"of {METRICS[settings.metric]} against every other, each with a certainty of 95%; without one, {best}"
    )


def verdict_interval(metrics: Metrics, arm: str) -> tuple[float, float]:
    """Return the 95% interval of an arm's score by the verdict's metric, where there is one; else the score twice."""
    within = getattr(metrics.arms[arm].intervals, metrics.verdict.metric) or (metrics.verdict.arms[arm].score,) * 2
    return (-within[1], -within[0]) if metrics.verdict.metric == "log_loss" else within


def mean_fit_seconds(seconds: list[TrialSeconds]) -> float:
    """Average the seconds that trials took for search and training, with the probe before them."""
    return statistics.fmean(one.search + one.train + one.probe for one in seconds)


def _arm(result: StudyResult, trials: list[TrialResult], accuracy: float) -> ArmMetrics:
    """`accuracy` is the mean over the seeds."""
    first, record = trials[0], trials[0].record
    metrics, logits = [_trial(one.record) for one in trials], [one.logits for one in trials]
    labels, groups = result.test_labels(), result.test_groups()
    over_seeds = {
        score: _mean_deviation([getattr(one.test, score) for one in metrics]) for score in SeedScores.model_fields
    }
    # of equally many right answers the same number, where the mean of the seeds' accuracies may round either way
    over_seeds["accuracy"] = MeanDeviation(mean=accuracy, deviation=_deviation([one.test.accuracy for one in metrics]))
    calibration = calibrate(
        labels,
        first.logits,
        None if first.validation_logits is None else (result.validation_labels(), first.validation_logits),
        result.validation_groups(),
    )
    return ArmMetrics(
        **dict(metrics[0]),
        weights=result.recipe.weights_of(record.arm),
        train=result.recipe.arms[record.arm].train,
        parameters=record.network.parameters,
        thawed=result.thawed.get(record.arm),
        frontier=record.network.frontier,
        channels_last=record.network.channels_last,
        intervals=all_intervals(labels, logits, groups),
        over_seeds=SeedScores.model_validate(over_seeds),
        classes=class_scores(labels, np.stack([one.argmax(1) for one in logits]), first.logits.shape[1], groups),
        curves=trace_curves(labels, first.logits),
        calibration=calibration,
        doubt=measure_doubt(result, first, calibration.temperature),
        trials=metrics,
    )


def _values(result: StudyResult, fraction: float = 1.0) -> dict[str, NDArray[np.float64]]:
    """For each arm what each test image adds to the verdict's metric, (seeds, n)."""
    metric, labels = result.recipe.verdict.metric, result.test_labels()
    return {
        arm: np.stack([contributions(metric, labels, one.logits) for one in of_arm])
        for arm, of_arm in result.trials(fraction).items()
    }


def _labels(result: StudyResult) -> Labels | None:
    """How the arms do with fewer labels; None where the recipe does not ask."""
    fractions = result.recipe.sweep.labels
    if len(fractions) == 1:
        return None
    shares = [
        Share(
            fraction,
            result.trained_on(fraction),
            _values(result, fraction),
            {
                arm: mean_fit_seconds([one.record.seconds for one in of_arm])
                for arm, of_arm in result.trials(fraction).items()
            },
        )
        for fraction in fractions
    ]
    return label_curves(result.recipe.verdict.metric, shares, result.test_groups())


def _class_logits(result: StudyResult) -> NDArray[np.float32]:
    """What answers the commonest class of the training images, with the classes' fractions as probabilities."""
    labels = result.dataset.source.labels[result.dataset.splits.train]
    counts = np.bincount(labels, minlength=len(result.dataset.source.classes))
    return np.asarray(np.log((counts + 1) / (counts.sum() + len(counts))), np.float32)


def _written(network: NetworkFacts, train: str | list[str]) -> int:
    """Count the parameters of the model that is written in the end, into whose layers adapters are merged."""
    if train != "lora":
        return network.parameters.total
    adapters = (row for row in network.modules if row.trained and not f"{row.module}.".startswith(f"{network.head}."))
    return network.parameters.total - sum(row.parameters for row in adapters)


def _costs(recipe: Recipe, trials: dict[str, list[TrialResult]]) -> dict[str, float] | None:
    """What each arm costs by `verdict.cost`; None where nothing is counted."""
    settings, arms = recipe.verdict, recipe.arms
    records = {arm: [one.record for one in of_arm] for arm, of_arm in trials.items()}
    if settings.cost == "none":
        return None
    if settings.cost == "train seconds":
        return {arm: mean_fit_seconds([one.seconds for one in of_arm]) for arm, of_arm in records.items()}
    if settings.cost == "inference":
        return {arm: _written(of_arm[0].network, arms[arm].train) for arm, of_arm in records.items()}
    return {arm: of_arm[0].network.parameters.trainable for arm, of_arm in records.items()}


def _trial(record: TrialRecord) -> TrialMetrics:
    search = record.search
    return TrialMetrics(
        seed=record.seed,
        learning_rate=search.learning_rate if search else None,
        edge=search.edge if search else None,
        search=search.attempts if search else [],
        tied=search.tied if search else [],
        learned=search.learned if search else True,
        rehearsal=record.rehearsal.epochs if record.rehearsal else None,
        fit=record.fit,
        epochs=record.training.epochs,
        stopped=record.training.stopped,
        probe=record.probe,
        test=record.scores,
        precision=record.precision,
        seconds=record.seconds,
    )


def _mean_deviation(values: list[float | None]) -> MeanDeviation | None:
    """The mean and deviation of a score; None where it is not defined."""
    known = [value for value in values if value is not None]
    return MeanDeviation(mean=statistics.fmean(known), deviation=_deviation(known)) if known else None


def _deviation(values: list[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def _precision(name: str) -> Precision:
    return "bf16" if name == "bf16" else "fp32"
