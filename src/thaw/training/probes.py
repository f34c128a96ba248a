"""The linear probe that an arm may start from (LP-FT: Kumar et al., 2022, arXiv:2202.10054)."""

from collections.abc import Iterable
from dataclasses import replace

from thaw.cache.checkpoint import load_state, save_state
from thaw.data.dataset import Dataset
from thaw.training.activations import Prefix
from thaw.training.heads import fit_probe
from thaw.training.network import Setup
from thaw.training.prepare import prepare
from thaw.training.results import HeadFit
from thaw.training.specs import head_only


def probe_head(setup: Setup, dataset: Dataset, shorter: Iterable[Prefix] = ()) -> HeadFit:
    """Fit the head of an arm's network by logistic regression on the features it starts with, and leave it there.

    It never sees a validation image, since the arm's own search is scored on these.

    Parameters
    ----------
    setup
        The arm's network, whose head is changed in place, and what its training depends on. The fitted head is kept in
        its `work` folder, where it has one, and found there by a later call.
    dataset
        The images, labels and splits.
    shorter
        Prefixes whose cached activations spare computing what they hold; they change nothing.

    Raises
    ------
    DivergedError
        A feature is infinite or NaN.
    """
    head = setup.network.model.get_submodule(setup.network.facts.head)
    kept = None if setup.work is None else setup.work / "probe.safetensors"
    if kept and (state := load_state(kept)):
        tensors, notes = state
        head.load_state_dict(tensors)
        return HeadFit.model_validate(notes)
    spec = head_only(setup.spec)
    network = prepare(spec, setup.seed, dataset, setup.compute, shorter)
    found = fit_probe(replace(setup, network=network, spec=spec))
    fitted = network.model.get_submodule(network.facts.head).state_dict()
    head.load_state_dict(fitted)
    if kept:
        save_state(kept, fitted, found.model_dump())
    return found
