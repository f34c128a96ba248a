"""Trials shown in another tool while they run: TensorBoard, MLflow, Weights & Biases or trackio."""

import contextlib
import importlib.util
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from thaw.errors import StorageError, first_line
from thaw.progress import say
from thaw.recipe import Recipe, training_of
from thaw.record import Record
from thaw.training.results import Attempt, Epoch, TrialRecord

Tool = Literal["tensorboard", "mlflow", "wandb", "trackio"]
Axis = Literal["attempt", "epoch"]
Values = Mapping[str, float]


@dataclass(frozen=True)
class Page:
    """Where a tool shows one trial."""

    log: Callable[[Values, Axis, int], None]
    """Numbers by name at an attempt of the search or an epoch, counted from 1."""
    end: Callable[[Values, bool], None]
    """The last numbers, of the whole trial, and whether it is done; no more is told of it."""


@dataclass(frozen=True)
class Board:
    """A tool that shows a study."""

    begin: Callable[[str, Mapping[str, Any]], Page]
    """A trial of that name and with these settings begins."""
    end: Callable[[Path | None], None]
    """The study is done, and this is its report; None where it was stopped."""


def tensorboard(run: Path, recipe: Recipe) -> Board:
    """Show trials in TensorBoard: event files in RUN/tensorboard, and the report's path as text."""
    from torch.utils.tensorboard import SummaryWriter

    folder = run / "tensorboard"

    def begin(name: str, settings: Mapping[str, Any]) -> Page:
        shutil.rmtree(folder / name, ignore_errors=True)  # a trial that goes on tells all that came before
        writer: Any = SummaryWriter(str(folder / name))
        writer.add_text("settings", "\n".join(f"- {key}: `{value}`" for key, value in settings.items()))

        def log(values: Values, _: Axis, step: int) -> None:
            for key, value in values.items():
                writer.add_scalar(key, value, step)
            writer.flush()

        def end(values: Values, _: bool) -> None:
            log(values, "epoch", 0)
            writer.close()

        return Page(log, end)

    def end(report: Path | None) -> None:
        if report:
            with SummaryWriter(str(folder / "report")) as writer:
                writer.add_text("report", f"`{report.resolve()}`")

    return Board(begin, end)


def mlflow(run: Path, recipe: Recipe) -> Board:
    """Show trials in MLflow: runs below one of the study, which has the report; the server is MLFLOW_TRACKING_URI."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    client = MlflowClient()
    known = client.get_experiment_by_name(recipe.name)
    experiment = known.experiment_id if known else client.create_experiment(recipe.name)
    study = client.create_run(experiment, run_name=run.resolve().name).info.run_id

    def begin(name: str, settings: Mapping[str, Any]) -> Page:
        trial = client.create_run(experiment, run_name=name, tags={"mlflow.parentRunId": study}).info.run_id
        client.log_batch(trial, params=[Param(key, str(value)) for key, value in settings.items()])

        def log(values: Values, _: Axis, step: int) -> None:
            client.log_batch(trial, metrics=[Metric(key, value, 0, step) for key, value in values.items()])

        def end(values: Values, done: bool) -> None:
            log(values, "epoch", 0)
            client.set_terminated(trial, "FINISHED" if done else "KILLED")

        return Page(log, end)

    def end(report: Path | None) -> None:
        if report:
            client.log_artifact(study, str(report))
        client.set_terminated(study, "FINISHED" if report else "KILLED")

    return Board(begin, end)


def wandb(run: Path, recipe: Recipe) -> Board:
    """Show trials in Weights & Biases: runs of the project `thaw` in one group, and one with the report."""
    import wandb as tool

    group = run.resolve().name

    def begin(name: str, settings: Mapping[str, Any]) -> Page:
        shown = tool.init(project="thaw", group=group, name=name, config=dict(settings), dir=str(run))
        for axis, kinds in (("attempt", ("search",)), ("epoch", ("train", "validation"))):
            shown.define_metric(axis)
            for kind in kinds:
                shown.define_metric(f"{kind}/*", step_metric=axis)

        def log(values: Values, axis: Axis, step: int) -> None:
            shown.log({**values, axis: step})

        def end(values: Values, done: bool) -> None:
            shown.summary.update(dict(values))
            shown.finish(0 if done else 1)

        return Page(log, end)

    def end(report: Path | None) -> None:
        if report:
            shown = tool.init(project="thaw", group=group, name="report", job_type="report", dir=str(run))
            artifact = tool.Artifact(f"report-{recipe.name}", type="report")
            artifact.add_file(str(report))
            shown.log_artifact(artifact)
            shown.finish()

    return Board(begin, end)


def trackio(run: Path, recipe: Recipe) -> Board:
    """Show trials in trackio: runs of a project named for the study, and the report among its files."""
    import trackio as tool

    def begin(name: str, settings: Mapping[str, Any]) -> Page:
        shown = tool.init(project=recipe.name, name=name, group=run.resolve().name, config=dict(settings), embed=False)

        def log(values: Values, axis: Axis, step: int) -> None:
            shown.log({**values, axis: step})

        def end(values: Values, _: bool) -> None:
            if values:
                shown.log(dict(values))
            shown.finish()

        return Page(log, end)

    def end(report: Path | None) -> None:
        if report:
            tool.save(report, project=recipe.name)

    return Board(begin, end)


class Tracking:
    """A listener that shows each trial on a board; where the board fails, the study goes on without it."""

    def __init__(self, board: Board, recipe: Recipe) -> None:
        self._board: Board | None = board
        self._recipe = recipe
        self._page: Page | None = None
        self._told: dict[str, int] = {}

    def begin_trial(self, arm: str, seed: int, fraction: float = 1.0) -> None:
        """A trial begins."""
        self._told = {}
        share = "" if fraction == 1 else f"@{fraction}"
        with self._trying():
            if self._board:
                self._page = self._board.begin(f"{arm}-{seed}{share}", settings_of(self._recipe, arm, seed))

    def note(self, kind: str, rows: Sequence[Record]) -> None:
        """The running trial's `search`, `fit` or `epochs` so far, of which those are shown that are new."""
        known = self._told.get(kind, 0)
        if len(rows) < known:  # trained anew, after a rehearsal or in fp32: shown behind what was before
            known = 0
        self._told[kind] = len(rows)
        for place, row in enumerate(rows[known:], known + 1):
            axis: Axis = "epoch" if isinstance(row, Epoch) else "attempt"
            with self._trying():
                if self._page and (values := values_of(row)):
                    self._page.log(values, axis, place)

    def end_trial(self, record: TrialRecord) -> None:
        """The trial is done, now or by an earlier run of the study."""
        self.note("search", record.search.attempts if record.search else [])
        self.note("fit", record.fit.attempts if record.fit else [])
        self.note("epochs", record.training.epochs)
        self._close(scores_of(record), done=True)

    def end(self, report: Path | None) -> None:
        """The study is done, and this is its report; None where it was stopped."""
        self._close({}, done=False)
        with self._trying():
            if self._board:
                self._board.end(report)

    def _close(self, values: Values, done: bool) -> None:
        page, self._page = self._page, None
        with self._trying():
            if page:
                page.end(values, done)

    @contextlib.contextmanager
    def _trying(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of any library, its server or the network
            self._board = self._page = None
            say(f"the study goes on without its tracker, which failed: {first_line(error)}")


@contextlib.contextmanager
def tracking(tool: str | None, run: Path, recipe: Recipe) -> Iterator[Tracking | None]:
    """Show the trials of this block in a tool.

    Parameters
    ----------
    tool
        One of Tool; None shows them nowhere.
    run
        The run folder, whose `report.html` is kept with the trials where the block succeeds.
    recipe
        The study's.

    Yields
    ------
    Tracking or None
        The listener that has to be told of the trials.

    Raises
    ------
    StorageError
        The tool's package is missing, or the tool cannot be reached.
    """
    if tool is None:
        yield None
        return
    if importlib.util.find_spec(tool) is None:
        raise StorageError(f"{tool} is not installed; install it with `pip install 'thaw-vision[{tool}]'`.")
    make = {"tensorboard": tensorboard, "mlflow": mlflow, "wandb": wandb, "trackio": trackio}[tool]
    try:
        shown = Tracking(make(run, recipe), recipe)
    except Exception as error:  # of any library, its server or the network
        raise StorageError(f"{tool} cannot be used: {first_line(error)}; check its settings.") from error
    finished = False
    try:
        yield shown
        finished = True
    finally:
        shown.end(run / "report.html" if finished else None)


def settings_of(recipe: Recipe, arm: str, seed: int) -> dict[str, Any]:
    """Return what a tool shows as the settings of a trial: its arm, its training, and where images and weights are."""
    own, training = recipe.arms[arm], training_of(recipe.arms[arm], recipe.train)
    found = {"arm": arm, "seed": seed, "source": recipe.data.source, "backbone": recipe.model.backbone}
    found |= {"weights": recipe.weights_of(arm), "train": own.train, "head": own.head}
    names = ("epochs", "batch_size", "optimizer", "weight_decay", "schedule")
    return found | {name: getattr(training, name) for name in names}


def values_of(row: Record) -> dict[str, float]:
    """Return the numbers of an attempt or an epoch, by the names under which tools show them."""
    if isinstance(row, Epoch):
        found = {"train/loss": row.loss, "train/accuracy": row.accuracy, "validation/loss": row.validation_loss}
        found["validation/accuracy"] = row.validation_accuracy
    elif isinstance(row, Attempt):
        found = {"search/learning_rate": row.learning_rate, "search/loss": row.loss, "search/accuracy": row.accuracy}
    else:
        found = {f"search/{name}": value for name, value in row.model_dump().items() if name in ("loss", "accuracy")}
    return {name: value for name, value in found.items() if value is not None}


def scores_of(record: TrialRecord) -> dict[str, float]:
    """Return a trial's scores on the test images, its learning rate, what it trained and how long it took."""
    scores = record.scores.model_dump(exclude={"confusion"})
    found = {f"test/{name}": value for name, value in scores.items()}
    found |= {"seconds": record.seconds.total, "trained_parameters": float(record.network.parameters.trainable)}
    if record.search:
        found["learning_rate"] = record.search.learning_rate
    return {name: float(value) for name, value in found.items() if value is not None}
