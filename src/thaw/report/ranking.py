"""Who leads, how surely, and which arm to use: sentences computed from the comparisons in `metrics.json`."""

from typing import NamedTuple

from thaw.run.metrics import Metrics
from thaw.scoring.comparison import ALPHA
from thaw.scoring.statistics import fewest
from thaw.text import about, count, listed, named, parameters, percent, points, probability, seconds, short, signed

DOUBT = ", if there is a difference: the test set cannot tell"


class Lead(NamedTuple):
    """One arm ahead of another, or level with it, on the test set."""

    ahead: str
    over: str
    gap: float
    """Difference of the accuracies, as a fraction, not negative."""
    images: float
    """The same in test images."""
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


def verdict(metrics: Metrics) -> str:
    """Say why this arm is recommended, how certain that is, and on how many seeds it rests."""
    trials = len(metrics.arms[metrics.best].trials)
    trained = "One seed." if trials == 1 else f"Mean of {trials} seeds."
    behind = leads(metrics)
    if not behind:
        return f"The only arm of this study. {trained}"
    none = "" if any(lead.clear for lead in pairs(metrics)) else "The data cannot tell any two of the arms apart. "
    return f"{none}{_why(metrics, behind)} {trained}"


def _why(metrics: Metrics, behind: list[Lead]) -> str:
    """Why the rule names this arm."""
    best, chosen = metrics.best, metrics.recommended
    images = count(metrics.splits["test"], "test image")
    trains = {arm: parameters(it.parameters.trainable) for arm, it in metrics.arms.items()}
    if few := too_few(metrics):
        gap, level = behind[0].gap, named(behind[0].over)
        return f"{f'The most accurate by {points(gap)}' if gap else f'As accurate as {level}'}, but {few}."
    if chosen != best:
        lead = next(lead for lead in behind if lead.over == chosen)
        if not lead.gap:
            return f"{named(best)} is right on as many, and trains {trains[best]} parameters against {trains[chosen]}."
        return (
            f"{named(best)} is right on {points(lead.gap)} more, but {images} cannot tell the two apart "
            f"({_evidence(lead)}), and it trains {trains[best]} parameters against {trains[chosen]}.{_needed([lead])}"
        )
    closest, unclear = behind[0], [lead for lead in behind if not lead.clear]
    if not unclear:
        every = named(closest.over) if len(behind) == 1 else f"every other arm; the closest, {named(closest.over)}, is"
        by = f"by {points(closest.gap)}" if len(behind) == 1 else f"{points(closest.gap)} behind"
        return f"Significantly more accurate than {every} {by} ({_evidence(closest)})."
    return (
        f"The most accurate, and of the arms that {images} cannot tell from it, "
        f"{listed([named(lead.over) for lead in unclear])}, none trains fewer parameters.{_needed(unclear)}"
    )


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
    right = (
        f"{named(best)} labels {percent(mean_accuracies(metrics)[best])} of the {count(images, 'test image')} correctly"
    )
    if not behind:
        return f"{right}. It is the only arm of this study, so there is nothing to compare it with."
    level = [named(lead.over) for lead in behind if not lead.gap]
    if level:
        return f"{right}, {'and so does' if len(level) == 1 else 'and so do'} {listed(level)}."
    shown = behind if len(behind) <= 3 else [behind[0], behind[-1]]
    gaps = [f"{named(lead.over)} by {points(lead.gap)} ({count(lead.images, 'image')})" for lead in shown]
    return f"{right}, which puts it ahead of {listed(gaps)}."


def certainty(metrics: Metrics) -> str:
    """Say the interval of the best arm's accuracy, and from which arms it differs significantly."""
    behind, group = leads(metrics), metrics.data.group
    low, high = metrics.arms[metrics.best].intervals.accuracy
    sentences = [f"The 95% Wilson interval of its accuracy is {percent(low)} to {percent(high)}"]
    if group:
        sentences[0] += f", with images that share a value of {short(group)} counted as alike as they turned out"
    for clear, verb in ((True, "tells it apart from"), (False, "cannot tell it apart from")):
        told = [f"{named(lead.over)} ({_evidence(lead)})" for lead in behind if lead.clear == clear]
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
        f"{sentence}; {named(best)} is ahead of {named(behind[0].over)} with {ahead} of the {trials} seeds. "
        "Intervals and tests are about other test images, for the models that these seeds gave."
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


def _evidence(lead: Lead) -> str:
    low, high = (signed(end) for end in lead.interval)
    p = probability(lead.p)
    return f"95% interval {low} to {high} points, corrected p {p if p.startswith('<') else f'= {p}'}"


def _needed(unclear: list[Lead]) -> str:
    """How many test images would tell these pairs apart, as a further sentence."""
    told = [(lead.needed, named(lead.over)) for lead in unclear if lead.needed]
    if not told:
        return ""
    if len(unclear) == 1:
        return f" About {about(told[0][0])} test images would tell them apart, if they are as far apart as they seem."
    each = listed([f"{about(number)} test images for {arm}" for number, arm in told])
    return f" To tell them apart would take about {each}, if they are as far apart as they seem."
