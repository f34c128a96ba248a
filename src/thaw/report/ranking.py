"""Who leads, and how surely: sentences computed from the comparisons in `metrics.json`."""

from typing import NamedTuple

from thaw.run.metrics import METRICS, Metrics
from thaw.scoring.comparison import ALPHA
from thaw.scoring.statistics import fewest
from thaw.text import about, count, listed, named, parameters, percent, points, probability, seconds, short, signed

DOUBT = ", if there is a difference: the test set cannot tell"


class Lead(NamedTuple):
    """One arm ahead of another, or level with it, on the test set."""

    ahead: str
    over: str
    gap: float
    """Difference of their scores by the verdict's metric, not negative."""
    images: float
    """Where that is accuracy, the same in test images."""
    interval: tuple[float, float]
    """95% interval of the gap."""
    p: float
    """Of the test that the arms are alike, corrected for the number of pairs."""
    needed: int | None
    """Test images that would show a difference; None where it is significant already, or 0."""

    @property
    def clear(self) -> bool:
        """Whether the difference is significant."""
        return self.p < ALPHA


def accuracies(metrics: Metrics) -> dict[str, list[float]]:
    """Return the test accuracies of each arm, by seed."""
    return {arm: [trial.test.accuracy for trial in it.trials] for arm, it in metrics.arms.items()}


def mean_accuracies(metrics: Metrics) -> dict[str, float]:
    """Return the test accuracy of each arm, the mean over its seeds."""
    return {arm: it.over_seeds.accuracy.mean for arm, it in metrics.arms.items()}


def pairs(metrics: Metrics) -> list[Lead]:
    """Return every pair of arms, the one ahead first; of pairs that are level, the best arm."""
    found = []
    for it in metrics.comparisons:
        (first, second), (low, high), gap = it.arms, it.interval, it.difference
        if gap < 0 or (gap == 0 and second == metrics.best):
            first, second, low, high, gap = second, first, -high, -low, -gap
        images = gap * metrics.splits["test"]
        found.append(Lead(first, second, gap, images, (low, high), it.p_holm, it.images_needed))
    return found


def leads(metrics: Metrics) -> list[Lead]:
    """Return the best arm's lead over each other arm, the closest first."""
    return sorted((lead for lead in pairs(metrics) if lead.ahead == metrics.best), key=lambda lead: lead.gap)


def amount(metrics: Metrics, score: float) -> str:
    """Format a score of the verdict's metric: accuracy in percent, others with three decimals."""
    return percent(score) if metrics.verdict.metric == "accuracy" else f"{score:.3f}"


def apart(metrics: Metrics, difference: float) -> str:
    """Format a difference of scores, without its sign: of accuracies in points."""
    return points(difference) if metrics.verdict.metric == "accuracy" else f"{abs(difference):.3f}"


def gap_between(metrics: Metrics, lead: Lead) -> str:
    """Format the 95% interval of a lead."""
    return spanned(metrics, lead.interval)


def spanned(metrics: Metrics, interval: tuple[float, float]) -> str:
    """Format the 95% interval of a difference of scores."""
    low, high = (_signed(metrics, end) for end in interval)
    return f"95% interval {low} to {high}" + (" points" if metrics.verdict.metric == "accuracy" else "")


def too_few(metrics: Metrics) -> str:
    """Say that so few test images, or groups, can show no difference between arms; empty where they can."""
    number = len(metrics.comparisons)
    if not number or metrics.comparisons[0].p_least < ALPHA:
        return ""
    least, groups = fewest(ALPHA / number), metrics.comparisons[0].groups
    images = count(metrics.splits["test"], "test image")
    if groups is None:
        return f"{images} are too few to show any difference between arms, however large; it takes at least {least}"
    shared = count(groups, "value")
    return (
        f"the {images} share {shared} of {short(metrics.data.group or '')}, too few to show any difference between "
        f"arms, however large; it takes at least {least}"
    )


def ranking(metrics: Metrics) -> str:
    """Say how many images the best arm classifies correctly, and how far behind the others are."""
    best, images, behind = metrics.best, metrics.splits["test"], leads(metrics)
    plain, score = metrics.verdict.metric == "accuracy", amount(metrics, metrics.verdict.arms[metrics.best].score)
    if plain:
        right = f"{named(best)} labels {score} of the {count(images, 'test image')} correctly"
    else:
        right = f"{named(best)} has the best {METRICS[metrics.verdict.metric]}, {score}"
    if not behind:
        return f"{right}. It is the only arm of this study, so there is nothing to compare it with."
    level = [named(lead.over) for lead in behind if not lead.gap]
    if level:
        return f"{right}, {'and so does' if len(level) == 1 else 'and so do'} {listed(level)}."
    shown = behind if len(behind) <= 3 else [behind[0], behind[-1]]
    gaps = [
        f"{named(lead.over)} by {apart(metrics, lead.gap)}" + (f" ({count(lead.images, 'image')})" if plain else "")
        for lead in shown
    ]
    return f"{right}, which puts it ahead of {listed(gaps)}."


def certainty(metrics: Metrics) -> str:
    """Say the interval of the best arm's accuracy, and from which arms it differs significantly."""
    behind, group = leads(metrics), metrics.data.group
    low, high = metrics.arms[metrics.best].intervals.accuracy
    sentences = [f"The 95% Wilson interval of its accuracy is {percent(low)} to {percent(high)}"]
    if group:
        sentences[0] += f", with images that share a value of {short(group)} counted as alike as they turned out"
    for clear, verb in ((True, "tells it apart from"), (False, "cannot tell it apart from")):
        told = [f"{named(lead.over)} ({_evidence(metrics, lead)})" for lead in behind if lead.clear == clear]
        if told:
            sentences.append(f"The test set {verb} {listed(told)}")
    return ". ".join(sentences) + "." + _needed([lead for lead in behind if not lead.clear])


def seeds(metrics: Metrics) -> str:
    """Say how much accuracy varies from seed to seed."""
    by_arm, best, behind = accuracies(metrics), metrics.best, leads(metrics)
    trials = len(by_arm[best])
    if trials == 1:
        return "Each arm was trained with one seed, so how much chance in training adds to that was not measured."
    deviations = {arm: it.over_seeds.accuracy.deviation for arm, it in metrics.arms.items()}
    spread = listed([f"{points(own)} for {named(arm)}" for arm, own in deviations.items() if own is not None])
    sentence = f"From seed to seed, accuracy varies by a standard deviation of {spread}"
    if not behind:
        return f"{sentence}."
    ahead = sum(own > other for own, other in zip(by_arm[best], by_arm[behind[0].over], strict=True))
    return (
        f"{sentence}; {named(best)} is ahead of {named(behind[0].over)} in accuracy with {ahead} of the {trials} "
        "seeds. "
        "Intervals of accuracy and of differences, and the tests, are about other test images and other seeds."
    )


def choice(metrics: Metrics) -> str:
    """Say the rule, and the arm that it recommends."""
    if len(metrics.arms) == 1:
        return ""
    return f"The rule: {metrics.rule}. It recommends {named(metrics.recommended)}."


def costs(metrics: Metrics) -> str:
    """Say what each further point of accuracy costs, from the cheapest arm up."""
    clear = {frozenset((lead.ahead, lead.over)) for lead in pairs(metrics) if lead.clear}
    told = []
    for step in metrics.costs:
        time = step.seconds_per_point
        spent = f"{seconds(abs(time))} {'more' if time >= 0 else 'less'} of search and training"
        doubt = "" if {step.cheaper, step.better} in clear else DOUBT
        told.append(
            f"from {named(step.cheaper)} to {named(step.better)} ({points(step.points / 100)}) each point costs "
            f"{parameters(round(step.parameters_per_point))} more trained parameters and {spent}{doubt}"
        )
    return f"Going {'; '.join(told)}." if told else ""


def _evidence(metrics: Metrics, lead: Lead) -> str:
    p = probability(lead.p)
    return f"{gap_between(metrics, lead)}, corrected p {p if p.startswith('<') else f'= {p}'}"


def _signed(metrics: Metrics, difference: float) -> str:
    return signed(difference) if metrics.verdict.metric == "accuracy" else f"{difference:.3f}".replace("-", "−")


def _needed(unclear: list[Lead]) -> str:
    """How many test images would tell these pairs apart, as a further sentence."""
    told = [(lead.needed, named(lead.over)) for lead in unclear if lead.needed]
    if not told:
        return ""
    if len(unclear) == 1:
        return f" About {about(told[0][0])} test images would tell them apart, if they are as far apart as they seem."
    each = listed([f"{about(number)} test images for {arm}" for number, arm in told])
    return f" To tell them apart would take about {each}, if they are as far apart as they seem."
