"""A trial, one arm with one seed: made ready, searched, trained, tested, saved."""

import copy
import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from thaw.bundle.load import SUBSPACE
from thaw.bundle.model import Bundle
from thaw.bundle.save import bundle_config, save_bundle
from thaw.cache.checkpoint import load_state, save_state
from thaw.cache.files import require_room
from thaw.compute.device import Compute
from thaw.data.dataset import Dataset
from thaw.data.shares import with_share
from thaw.errors import DivergedError, ModelError
from thaw.nets.adapters import merge_adapters
from thaw.nets.backbones import weights_digest
from thaw.plan import DONE, Study, Trial
from thaw.progress import Clock, say, stage
from thaw.record import Record
from thaw.scoring.metrics import score
from thaw.scoring.unlike import Distances, Subspace, distances, fit_subspace, spread
from thaw.training.average import average, train_once
from thaw.training.heads import Kind, features_of, fit_head
from thaw.training.network import Setup, Tell, restore, silent, snapshot
from thaw.training.prepare import count_parameters, prepare
from thaw.training.probes import probe_head
from thaw.training.results import HeadFit, SearchResult, TrainResult, TrialRecord, TrialResult, TrialSeconds
from thaw.training.search import search
from thaw.training.train import final_rows, train

REHEARSED = ("validation", "distances")
"""The tensors that are kept of a rehearsal: `validation_logits` and `distances`."""


class Listener(Protocol):
    """Who is told how far a trial is."""

    def begin_trial(self, arm: str, seed: int, fraction: float) -> None:
        """A trial begins."""

    def note(self, kind: str, rows: Sequence[Record]) -> None:
        """The running trial's `search`, `fit` or `epochs` so far, or the one SearchResult that was `chosen`."""

    def end_trial(self, record: TrialRecord) -> None:
        """The trial is done, now or by an earlier run of the study."""


@dataclass(frozen=True)
class Listeners:
    """Several listeners, each told of everything."""

    all: Sequence[Listener]

    def begin_trial(self, arm: str, seed: int, fraction: float) -> None:
        """A trial begins."""
        for one in self.all:
            one.begin_trial(arm, seed, fraction)

    def note(self, kind: str, rows: Sequence[Record]) -> None:
        """What of the running trial is known so far."""
        for one in self.all:
            one.note(kind, rows)

    def end_trial(self, record: TrialRecord) -> None:
        """The trial is done."""
        for one in self.all:
            one.end_trial(record)


@dataclass(frozen=True)
class Rehearsal:
    """A training on the training images alone, before that on both splits."""

    training: TrainResult
    validation_logits: NDArray[np.float32]
    """(validation images, classes), by a network that has not trained on them."""
    distances: NDArray[np.float32]
    """(validation images,) from the training images; see `scoring.unlike`."""


@dataclass(frozen=True)
class Trained:
    """A trained network, and how it came about."""

    setup: Setup
    """The network, trained, and all that its training depended on."""
    probe: HeadFit | None
    fit: HeadFit | None
    """Of a head that is not trained; else None."""
    search: SearchResult | None
    """None where the head is fitted."""
    training: TrainResult
    """Without epochs where the head is fitted."""
    rehearsal: Rehearsal | None
    prepare_seconds: float


def run_trial(study: Study, trial: Trial, listener: Listener | None = None) -> TrialResult:
    """Search, train finally and test once: a function of its study and trial, whatever ran before it.

    What an earlier run of the study finished, in whole or in part, is found in the run folder and not done again.

    Parameters
    ----------
    study
        What the trials share; checkpoints, the result and the model go into its run folder.
    trial
        The arm, the seed and the fraction of the training images.
    listener
        Told of the beginning, every attempt and epoch, and the end.

    Returns
    -------
    TrialResult
        The scores, and the logits of the test images.

    Raises
    ------
    DivergedError
        Training diverges, in fp32 too.
    ModelError
        A logit of a test image is infinite or NaN.
    StorageError
        The disk is full, or the run folder cannot be written.
    """
    if listener:
        listener.begin_trial(trial.spec.name, trial.seed, trial.fraction)
    result = _load(study, trial)
    if result is None:
        tell = listener.note if listener else silent
        dataset = with_share(study.dataset, study.recipe.data, trial.fraction)
        trained = train_trial(trial, dataset, study.compute, study.work / trial.training, tell)
        result = _finish(study, trial, trained)
        del trained
        gc.collect()  # graphs and their networks hold each other
    if listener:
        listener.end_trial(result.record)
    return result


def train_trial(
    trial: Trial, dataset: Dataset, compute: Compute, work: Path | None = None, tell: Tell = silent
) -> Trained:
    """Make a trial's network ready, search and train; all of it again in fp32 where bf16 diverges.

    Parameters
    ----------
    trial
        The arm and the seed; its prefixes spare computing what the cache holds.
    dataset
        The images, labels and splits.
    compute
        The device and precision.
    work
        The folder of checkpoints, which a later call goes on from; None writes none.
    tell
        Called with every attempt and epoch.

    Raises
    ------
    DivergedError
        Training diverges, in fp32 too.
    StorageError
        The disk is full, or `work` cannot be written.
    """
    try:
        return _train(trial, dataset, compute, work, tell)
    except DivergedError as error:
        if compute.precision == "fp32":
            raise
        why = str(error).rstrip(".")
    gc.collect()  # the first network, which the error held, and its graphs, which hold each other
    say(f"arm {trial.spec.name}: {why}; it is trained again in fp32")
    alone = trial.model_copy(update={"prefixes": []})  # the plan's are those of bf16
    return _train(alone, dataset, replace(compute, precision="fp32"), work and work / "fp32", tell)


def _train(trial: Trial, dataset: Dataset, compute: Compute, work: Path | None, tell: Tell) -> Trained:
    clock = Clock()
    with clock("prepare"):
        network = prepare(trial.spec, trial.seed, dataset, compute, trial.prefixes)
    if work:
        require_room(work, sum(tensor.nbytes for tensor in network.model.state_dict().values()))
    labels = dataset.labels(compute.device)
    setup = Setup(network, trial.spec, trial.seed, labels, dataset.splits, compute, work, tell, dataset.tested)
    prepared = clock.seconds()["prepare"]
    if trial.spec.head != "trained":
        return _fit(setup, trial.spec.head, prepared)
    probe = probe_head(setup, dataset, trial.prefixes) if trial.spec.probe else None
    found = search(setup)
    tell("chosen", [found])
    rate, decay = found.learning_rate, found.weight_decay

    start = snapshot(network.trainable) if trial.spec.average or setup.spec.training.rehearses else []

    def teach(setup: Setup) -> TrainResult:
        taught = train_once(setup, rate, decay) if trial.shared else train(setup, rate, decay)
        if trial.spec.average:
            average(setup, start, trial.spec.alpha)
        return taught

    rehearsal = None
    if setup.spec.training.rehearses:
        rehearsal = _rehearse(setup, teach)
        restore(network.trainable, start)
    return Trained(setup, probe, None, found, teach(setup), rehearsal, prepared)


def _fit(setup: Setup, kind: Kind, prepared: float) -> Trained:
    """Fit the head of a network, of which nothing else trains."""

    def teach(setup: Setup) -> TrainResult:
        return TrainResult(epochs=[], stopped=None, seconds=fit_head(setup, kind).seconds)

    rehearsal = _rehearse(setup, teach) if setup.spec.training.rehearses else None
    fit = fit_head(setup, kind)
    network = setup.network
    counted = network.facts.model_copy(update={"parameters": count_parameters(network.model)})
    setup = replace(setup, network=replace(network, facts=counted))  # neighbours are known only now
    taught = TrainResult(epochs=[], stopped=None, seconds=fit.seconds)
    return Trained(setup, None, fit, None, taught, rehearsal, prepared)


def _rehearse(setup: Setup, teach: Callable[[Setup], TrainResult]) -> Rehearsal:
    """Teach the network on the training images alone and score it on validation; it is left as it was taught."""
    folder = setup.work and setup.work / "rehearsal"
    name = f"done-{setup.spec.name}.safetensors" if setup.spec.average else DONE
    done = load_state(folder / name) if folder else None
    if done is not None and done[0].keys() == set(REHEARSED):
        return Rehearsal(TrainResult.model_validate(done[1]), *(done[0][key].numpy() for key in REHEARSED))
    training = setup.spec.training.model_copy(update={"refit": "train", "rehearse": False})
    alone = replace(setup, spec=setup.spec.model_copy(update={"training": training}), work=folder)
    taught = teach(alone)
    logits = alone.test(setup.splits.validation).numpy()
    away = distances(fit_training(alone), features_of(alone, setup.splits.validation))
    if folder:
        answers = dict(zip(REHEARSED, map(torch.from_numpy, (logits, away)), strict=True))
        save_state(folder / name, answers, taught.model_dump())
        (folder / "epoch.safetensors").unlink(missing_ok=True)
    return Rehearsal(taught, logits, away)


def fit_training(setup: Setup) -> Subspace:
    """Fit the subspace of the features of the images that a network was trained on."""
    return fit_subspace(features_of(setup, spread(final_rows(setup))))


def _finish(study: Study, trial: Trial, trained: Trained) -> TrialResult:
    """Look at the test set once, and write down the result and the model."""
    clock, setup, splits = Clock(), trained.setup, study.dataset.splits
    with clock("test"):
        logits = setup.test(splits.test).numpy()
    if not np.isfinite(logits).all():
        raise ModelError(
            f"arm {trial.spec.name} answers some test images with infinite numbers; lower the rates in [search]."
        )
    held_out = trial.spec.training.refit == "train"
    validation_logits = setup.test(splits.validation).numpy() if held_out else None
    if trained.rehearsal:
        validation_logits = trained.rehearsal.validation_logits
    found = _distances(setup, trained.rehearsal, held_out) if trial.saved else None
    merge_adapters(setup.network.model)
    shifted = _shifted(study, trial, setup)
    record = TrialRecord(
        arm=trial.spec.name,
        seed=trial.seed,
        fraction=trial.fraction,
        precision="bf16" if setup.compute.precision == "bf16" else "fp32",
        network=setup.network.facts,
        probe=trained.probe,
        fit=trained.fit,
        search=trained.search,
        training=trained.training,
        rehearsal=trained.rehearsal.training if trained.rehearsal else None,
        scores=score(study.dataset.source.labels[splits.test], logits),
        seconds=_seconds(trained, clock.seconds()["test"]),
    )
    result = TrialResult(record, logits, validation_logits, found[1] if found else None, shifted)
    _save(study, trial, result, setup, found[0] if found else None)
    return result


def _distances(setup: Setup, rehearsal: Rehearsal | None, held_out: bool) -> tuple[Subspace, Distances] | None:
    """The subspace of the training images, and how far others lie from it; None where no validation image is new."""
    if not held_out and rehearsal is None:
        return None
    subspace, splits = fit_training(setup), setup.splits
    of_validation = rehearsal.distances if rehearsal else distances(subspace, features_of(setup, splits.validation))
    return subspace, Distances(of_validation, distances(subspace, features_of(setup, splits.test)))


def _shifted(study: Study, trial: Trial, setup: Setup) -> dict[str, NDArray[np.float32]]:
    """What the trained network answers on each further test set, as its bundle would: whole, from the pixels."""
    if not study.shifted:
        return {}
    bundle = Bundle(
        model=copy.deepcopy(setup.network.model).eval().cpu(),
        classes=study.dataset.source.classes,
        preprocessing=study.dataset.preprocessing,
        decode=study.recipe.images.decode,
        temperature=None,
        config={},
        compute=setup.compute,
        test_views=study.recipe.augment.test_views,
    )
    with stage(f"arm {trial.spec.name}", len(study.shifted), "test sets") as advance:
        found = {}
        for one in study.shifted:
            found[one.name] = bundle.logits_of(one.pixels)
            advance(1)
    return found


def _seconds(trained: Trained, test: float) -> TrialSeconds:
    spent = {
        "prepare": trained.prepare_seconds,
        "probe": trained.probe.seconds if trained.probe else 0.0,
        "search": trained.search.seconds if trained.search else 0.0,
        "train": trained.training.seconds + (trained.rehearsal.training.seconds if trained.rehearsal else 0.0),
        "test": test,
    }
    return TrialSeconds(**spent, total=sum(spent.values()))


def _save(study: Study, trial: Trial, result: TrialResult, setup: Setup, subspace: Subspace | None) -> None:
    """Save a trial's model, where it is to be kept, then its result."""
    model, bundle = None, _bundle(study, trial)
    if bundle:
        config = bundle_config(trial.spec, study.dataset, study.recipe, result.record.scores)
        save_bundle(bundle, setup.network.model, config, subspace)
        model = weights_digest(str(bundle / "model.safetensors"))
    answers = {"test": torch.from_numpy(result.logits)}
    if result.validation_logits is not None:
        answers["validation"] = torch.from_numpy(result.validation_logits)
    if result.distances is not None:
        answers |= {f"distances.{name}": torch.from_numpy(of) for name, of in vars(result.distances).items()}
    answers |= {f"shifted.{name}": torch.from_numpy(logits) for name, logits in result.shifted.items()}
    notes = {"record": result.record.model_dump(mode="json"), "model": model}
    save_state(study.work / trial.name / DONE, answers, notes)
    if setup.work:
        (setup.work / "epoch.safetensors").unlink(missing_ok=True)


def _load(study: Study, trial: Trial) -> TrialResult | None:
    """The result that an earlier run of the study saved; None where there is none, or its model is gone."""
    done = load_state(study.work / trial.name / DONE)
    if done is None:
        return None
    answers, notes = done
    bundle = _bundle(study, trial)
    if bundle and notes["model"] != weights_digest(str(bundle / "model.safetensors")):
        return None
    try:
        record = TrialRecord.model_validate(notes["record"])
    except ValidationError:  # by another version of thaw
        return None
    validation = answers["validation"].numpy() if "validation" in answers else None
    measured = None
    if "distances.test" in answers:
        if bundle and not (bundle / SUBSPACE).is_file():
            return None
        measured = Distances(answers["distances.validation"].numpy(), answers["distances.test"].numpy())
    shifted = {one.name: answers[f"shifted.{one.name}"].numpy() for one in study.shifted}
    return TrialResult(record, answers["test"].numpy(), validation, measured, shifted)


def _bundle(study: Study, trial: Trial) -> Path | None:
    """Where a trial's model is kept; None where it is not."""
    return study.folder / "models" / trial.spec.name if trial.saved else None
