"""The verdict in words: one sentence that says which arm to use, then the reasons, from `metrics.json`."""

from thaw.report.ranking import amount, apart, gap_between, leads, too_few
from thaw.run.metrics import METRICS, Metrics
from thaw.scoring.verdict import ArmVerdict
from thaw.text import about, count, listed, named, parameters, percent, seconds


def headline(metrics: Metrics) -> str:
    """Say in a sentence which arm to use, and how it should do on new images. Names of arms are in backticks."""
    chosen, found = metrics.recommended, metrics.verdict
    own, images = found.arms[chosen], count(metrics.splits["test"], "test image")
    if metrics.verdict.metric == "accuracy":
        result = f"right on {percent(own.score)} of {images}"
    else:
        result = f"{METRICS[found.metric]} {amount(metrics, own.score)} on {images}"
    if not own.learned:
        has = "has learned" if own.score <= found.baseline else "is shown to have learned"
        always = f"always answering the commonest class gives {amount(metrics, found.baseline)}"
        return f"No arm {has} anything: {always}, and the best, {named(chosen)}, is {result}."
    if len(metrics.arms) == 1:
        return f"Use {named(chosen)}: {result}."
    if chosen != metrics.best:
        shown = f"shown to lose no more than {apart(metrics, found.margin)} against {named(metrics.best)}, the best"
        return f"Use {named(chosen)}: {result}, and {shown}."
    return f"Use {named(chosen)}: {result}; on new images expect about {amount(metrics, found.expected)}."


def reasons(metrics: Metrics) -> str:
    """Say why: how likely the best arm is the best, what a cheaper one loses, and on what that rests."""
    told = [_likely(metrics), _cheaper(metrics), _unlearned(metrics), _basis(metrics)]
    return " ".join(filter(None, told))


def flattery(metrics: Metrics) -> str:
    """Say how far being chosen on these images flatters the best arm; empty with a single arm."""
    found, number = metrics.verdict, len(metrics.arms)
    more = found.arms[metrics.best].score - found.expected
    if number == 1 or apart(metrics, more).startswith("0.0 ") or not found.arms[metrics.best].learned:
        return ""
    return (
        f"Being picked as the best of {number} on these images flatters {named(metrics.best)} by about "
        f"{apart(metrics, more)}: on new ones expect {amount(metrics, found.expected)}."
    )


def _likely(metrics: Metrics) -> str:
    """How likely the best arm is the best, and how far the next is behind."""
    best, behind = metrics.best, leads(metrics)
    if not behind:
        return "The only arm of this study."
    which = "models" if _one_seed(metrics) else "ways of training"
    sure = metrics.verdict.arms[best].probability_best
    chance = "more than 99%" if sure > 0.99 else percent(sure, 0)
    near = behind[0]
    if few := too_few(metrics):
        lead = f"is ahead of {named(near.over)} by" if near.gap else f"is level with {named(near.over)}:"
        return f"{named(best)} {lead} {apart(metrics, near.gap)}, but {few}."
    told = f"{named(best)} is the best of the {len(metrics.arms)} {which} with a probability of {chance}"
    if near.gap == 0:
        return f"{told}; {named(near.over)} scores the same."
    told = f"{told}. {named(near.over)} is {apart(metrics, near.gap)} behind ({gap_between(metrics, near)})"
    if near.clear or metrics.verdict.cost != "none":
        return f"{told}."
    needed = f" About {about(near.needed, 'test image')} would tell them apart." if near.needed else ""
    regret = apart(metrics, metrics.verdict.arms[near.over].regret)
    return f"{told}, which may be chance: who uses it instead loses {regret} on average.{needed}"


def _cheaper(metrics: Metrics) -> str:
    """What is known of the arms that cost less than the best."""
    found, best = metrics.verdict, metrics.best
    dear = found.arms[best].cost
    if dear is None or len(metrics.arms) == 1:
        return ""
    margin, chosen = apart(metrics, found.margin), metrics.recommended
    cheaper = {arm: it for arm, it in found.arms.items() if it.cost is not None and it.cost < dear}
    if chosen != best:
        saves = _costs(found.cost, found.arms[chosen], found.arms[best])
        return f"{named(chosen)} {saves}, and loses no more than {margin} with a certainty of 95%."
    if not cheaper:
        return f"No arm costs less {_by(found.cost)}."
    undecided = {arm: it for arm, it in cheaper.items() if it.loss_interval[0] <= found.margin and it.learned}
    if not undecided:
        return f"Every arm that costs less {_by(found.cost)} is shown to lose more than {margin}."
    arm = min(undecided, key=lambda arm: (undecided[arm].regret, undecided[arm].cost))
    it = undecided[arm]
    if it.images_needed:
        settled = f"; about {about(it.images_needed, 'test image')} would settle it"
    elif not _one_seed(metrics):
        settled = "; more seeds may settle it"
    else:
        settled = "; it is too close to the margin for any number of images to settle"
    return (
        f"{named(arm)} {_costs(found.cost, it, found.arms[best])}, but whether it loses more than {margin} is undecided"
        f": choosing it would cost {apart(metrics, it.regret)} on average{settled}."
    )


def _unlearned(metrics: Metrics) -> str:
    """Which of the other arms are no better than always answering the commonest class."""
    found = metrics.verdict
    if not found.arms[metrics.recommended].learned:
        return ""
    arms = [named(arm) for arm, it in found.arms.items() if not it.learned]
    if not arms:
        return ""
    have = "has" if len(arms) == 1 else "have"
    return (
        f"{listed(arms)} {have} learned nothing that shows: always answering the commonest class gives "
        f"{amount(metrics, found.baseline)}."
    )


def _basis(metrics: Metrics) -> str:
    trials = len(metrics.arms[metrics.best].trials)
    if trials == 1:
        return "One seed: this is about these models, not about these ways of training."
    return f"Mean of {trials} seeds; images and seeds both count."


def _one_seed(metrics: Metrics) -> bool:
    return len(metrics.arms[metrics.best].trials) == 1


def _costs(cost: str, own: ArmVerdict, best: ArmVerdict) -> str:
    less, more = own.cost or 0.0, best.cost or 0.0
    if cost == "train seconds":
        return f"takes {seconds(less)} of search and training against {seconds(more)}"
    verb = "needs" if cost == "inference" else "trains"
    return f"{verb} {parameters(round(less))} parameters against {parameters(round(more))}"


def _by(cost: str) -> str:
    return {"train seconds": "to train", "inference": "at inference"}.get(cost, "in trained parameters")
