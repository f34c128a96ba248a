"""The linear probe that an arm may start from (LP-FT: Kumar et al., 2022, arXiv:2202.10054)."""

from collections.abc import Iterable
from dataclasses import replace

from thaw.data.dataset import Dataset
from thaw.training.activations import Prefix
from thaw.training.network import Setup
from thaw.training.prepare import prepare
from thaw.training.results import ProbeResult
from thaw.training.search import search
from thaw.training.specs import head_only
from thaw.training.train import train


def probe_head(setup: Setup, dataset: Dataset, shorter: Iterable[Prefix] = ()) -> ProbeResult:
    """Train the head of an arm's network alone, with a search of its own, and leave it in the network.

    It never sees a validation image, since the arm's own search is scored on these.

    Parameters
    ----------
    setup
        The arm's network, whose head is changed in place, and what its training depends on.
    dataset
        The images, labels and splits.
    shorter
        Prefixes whose cached activations spare computing what they hold; they change nothing.

    Raises
    ------
    DivergedError
        The loss is infinite or NaN at every learning rate, or in bf16.
    """
    spec, work = head_only(setup.spec), None if setup.work is None else setup.work / "probe"
    network = prepare(spec, setup.seed, dataset, setup.compute, shorter)
    alone = replace(setup, network=network, spec=spec, work=work)
    found = search(alone)
    trained = train(alone, found.learning_rate, found.weight_decay)
    head = network.facts.head
    setup.network.model.get_submodule(head).load_state_dict(network.model.get_submodule(head).state_dict())
    return ProbeResult(
        learning_rate=found.learning_rate, epochs=trained.epochs, seconds=found.seconds + trained.seconds
    )
