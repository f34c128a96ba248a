"""Sentences on what models say besides their most probable class: sets, thresholds, open answers, what is unlike."""

from thaw.run.doubt import Doubt
from thaw.run.metrics import Metrics
from thaw.text import named, percent, short, within

ANSWERED = 0.8
"""The fraction of the images answered that the sentence on open answers tells of."""


def doubt_of(metrics: Metrics, arm: str) -> dict[str, str]:
    """Write a sentence or two each on `answers`, `sets`, `threshold` and `unlike` of an arm.

    Names of arms are in backticks. What the study did not measure is left out; it is empty for runs without any.
    """
    found = metrics.arms[arm].doubt
    if found is None:
        return {}
    told = {
        "answers": _answers(found, arm),
        "sets": _sets(found, metrics),
        "threshold": _threshold(found),
        "unlike": _unlike(found),
        "rehearsed": (
            "Sets, threshold and alarms were chosen by a network trained on the training images alone, not by the one "
            "that is kept, which has trained on the validation images too: what they are worth for it is what the test "
            "images show."
            if found.rehearsed
            else ""
        ),
    }
    return {part: sentence for part, sentence in told.items() if sentence}


def _answers(found: Doubt, arm: str) -> str:
    risk = found.risk
    surest = min(risk.curve, key=lambda point: abs(point[0] - ANSWERED))
    if not risk.area_at_random:
        return f"{named(arm)} is right on every test image, so nothing is gained by leaving images open."
    return (
        f"Of the {percent(surest[0], 0)} of test images that {named(arm)} is surest of, {percent(surest[1])} are "
        f"answered wrong; of all, {percent(risk.area_at_random)}. The area under the curve is {risk.area:.4f}, where "
        f"{risk.area_at_random:.4f} would be no better than leaving images open at random, and {risk.area_at_best:.4f} "
        "perfect."
    )


def _sets(found: Doubt, metrics: Metrics) -> str:
    sets = found.sets
    wanted = percent(sets.coverage, 0) if sets.coverage * 100 % 1 < 1e-9 else percent(sets.coverage)
    if sets.covered is None or sets.covered_interval is None or sets.size is None:
        return f"There are no prediction sets: {sets.reason}."
    by = "within each class" if sets.by_class else "on average over all classes"
    sentence = (
        f"A prediction set is the classes that an image may be; {wanted} of sets should hold the true one, {by} "
        f"({sets.reason}). On test {percent(sets.covered)} do ({within(sets.covered_interval)}), with {sets.size:.2f} "
        "classes each on average"
    )
    empty = sets.sizes[0] / sum(sets.sizes)
    if empty:
        sentence += f"; {percent(empty)} are empty, because no class is probable enough"
    sentence += "."
    least = [
        (it.covered, place)
        for place, it in enumerate(sets.classes)
        if it.covered is not None and it.interval is not None and it.interval[1] < sets.coverage
    ]
    if least:
        covered, place = min(least)
        sentence += f" Of {short(metrics.classes[place])} only {percent(covered)} do, fewer than promised."
    if metrics.data.group:
        group = short(metrics.data.group)
        sentence += f" Images with the same {group} are alike, so the promise is rougher than their number suggests."
    if found.risk.area_at_random < 1 - sets.coverage:
        sentence += (
            " The single most probable class is right more often than that: a higher decide.coverage, such as 0.99, "
            "tells more."
        )
    return sentence


def _threshold(found: Doubt) -> str:
    decision = found.decision
    if decision is None:
        return ""
    wanted = decision.wanted
    name = short(wanted.positive)
    if decision.threshold is None or decision.test is None or decision.before is None:
        return f"There is no threshold for {name}: {decision.reason}."
    if wanted.recall is not None:
        aim = f"a recall of {percent(wanted.recall)}"
    elif wanted.precision is not None:
        aim = f"a precision of {percent(wanted.precision)}"
    else:
        aim = "the least cost"
    test, before = decision.test, decision.before
    start = "no image" if decision.threshold > 1 else f"{name} from a probability of {decision.threshold:.4f} on"
    recalled, precise = (within(interval) for interval in (test.recall_interval, test.precision_interval))
    sentence = (
        f"For {aim}, the model decides for {start} ({decision.reason}). On test, recall is {percent(test.recall)} "
        f"({recalled}) and precision {percent(test.precision)} ({precise}); by the most probable class alone "
        f"{percent(before.recall)} and {percent(before.precision)}."
    )
    if decision.cost is not None and decision.cost_before is not None:
        limits = (
            f" ({decision.cost_interval[0]:.3f} to {decision.cost_interval[1]:.3f})" if decision.cost_interval else ""
        )
        sentence += f" An image costs {decision.cost:.3f}{limits} on average, before {decision.cost_before:.3f}."
    return sentence


def _unlike(found: Doubt) -> str:
    unlike = found.unlike
    if unlike.flagged is None or unlike.flagged_interval is None:
        return f"Nothing tells images unlike the training images: {unlike.reason}."
    return (
        f"An image whose features lie farther from those of the training images than all but "
        f"{percent(unlike.false_alarms)} of images like them do is called unlike them ({unlike.reason}). Of the test "
        f"images {percent(unlike.flagged)} are ({within(unlike.flagged_interval)}). An image that is not called so may "
        "still be of something else."
    )
