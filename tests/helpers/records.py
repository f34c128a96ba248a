"""Records of trials made for tests."""

from helpers.small_metrics import TRIAL
from thaw.scoring.metrics import Scores
from thaw.training.results import (
    Attempt,
    Epoch,
    Frontier,
    NetworkFacts,
    Parameters,
    SearchResult,
    TrainResult,
    TrialRecord,
    TrialSeconds,
)

FACTS = NetworkFacts(
    head="head",
    modules=[],
    parameters=Parameters(total=0, trainable=0),
    frontier=Frontier(nodes=[], bytes_per_image=0, fraction_saved=0.0, reason=""),
    channels_last=False,
)
"""What is known of a network that nobody asks about."""


def small_record(arm: str, attempts: list[Attempt], epochs: list[Epoch], seconds: float) -> TrialRecord:
    """Return a record of seed 0 that took so many seconds."""
    return TrialRecord(
        arm=arm,
        seed=0,
        precision="fp32",
        network=FACTS,
        probe=None,
        search=SearchResult(learning_rate=1e-3, edge=None, tied=[], attempts=attempts, seconds=0.0),
        training=TrainResult(epochs=epochs, stopped=None, seconds=0.0),
        scores=Scores.model_validate(TRIAL["test"]),
        seconds=TrialSeconds(prepare=0.0, search=0.0, train=seconds, test=0.0, total=seconds),
    )
