"""Where arms fail: sentences on slices, calibration, agreement and label errors, computed from `metrics.json`."""

from thaw.run.metrics import Metrics
from thaw.scoring.comparison import ALPHA
from thaw.scoring.slices import ColumnScores, Gap
from thaw.text import count, listed, named, percent, points, probability, short, signed

EVEN = 0.01
"""Confidence within a point of accuracy counts as well calibrated."""

FEW_ERRORS = 5
"""Of a class with fewer label errors the report does not say how many are expected to be right."""


def failures(metrics: Metrics) -> dict[str, str]:
    """Write a paragraph each on `slices`, `calibration`, `agreement` and `label_errors`; without slices, or with a
    single arm, that part is left out.

    Names of arms are in backticks. Slices are those of the recommended arm.
    """
    told = {
        "slices": _slices(metrics),
        "calibration": _calibration(metrics),
        "agreement": _agreement(metrics),
        "label_errors": _label_errors(metrics),
    }
    return {part: paragraph for part, paragraph in told.items() if paragraph}


def describe_gap(column: str, gap: Gap) -> str:
    """Say what the largest gap between two slices of a column is, and what its test says; without a full stop."""
    low, high = (signed(end) for end in gap.interval)
    p = probability(gap.p_holm)
    evidence = f"95% interval {low} to {high}; corrected p {p if p.startswith('<') else f'= {p}'}"
    pair = f"{_slice(column, gap.low)} is {points(gap.difference)} harder than {_slice(column, gap.high)}"
    doubt = "" if gap.p_holm < ALPHA else ", which chance alone may explain"
    return f"{pair} ({evidence}){doubt}"


def gaps(metrics: Metrics, arm: str) -> list[tuple[str, Gap]]:
    """Return an arm's largest gap in each column that has one: the significant first, then the widest."""
    found = [(it.column, it.gaps[arm]) for it in metrics.slices if arm in it.gaps]
    return sorted(found, key=lambda pair: (pair[1].p_holm >= ALPHA, -pair[1].difference))


def small_slices(of_column: ColumnScores) -> str:
    """Say which slices of a column are too small to rely on; empty where none is."""
    small = [f"{short(it.value)} ({it.count})" for it in of_column.values if it.small]
    if not small:
        return ""
    verb = "has" if len(small) == 1 else "have"
    left_out = ", and left out of the largest gap" if len(of_column.values) > 2 else ""
    return f"{listed(small)} {verb} fewer than 30 images: read with care{left_out}."


def _slices(metrics: Metrics) -> str:
    arm, columns = metrics.recommended, metrics.slices
    found = gaps(metrics, arm)
    if not columns:
        return ""
    if not found:
        return f"No column has two slices of 30 test images or more, so no gap of {named(arm)} can be tested."
    clear = [(column, gap) for column, gap in found if gap.p_holm < ALPHA]
    sentences = []
    if clear:
        column, gap = clear[0]
        sentences.append(f"For {named(arm)}, {describe_gap(column, gap)}.")
        if others := [short(name) for name, _ in clear[1:]]:
            sentences.append(f"The test set also shows a gap by {listed(others)}.")
    unclear = [short(column) for column, gap in found if gap.p_holm >= ALPHA]
    if unclear:
        start = "It" if clear else f"For {named(arm)}, the test set"
        sentences.append(f"{start} is too small to settle whether there is a gap by {listed(unclear, 'or')}.")
    if not clear:
        sentences.append(f"The widest: {describe_gap(*found[0])}.")
    return " ".join(sentences)


def _calibration(metrics: Metrics) -> str:
    told: dict[str, list[str]] = {}
    for arm, it in metrics.arms.items():
        bins = it.calibration.bins
        images = sum(one.count for one in bins)
        sure = sum(one.count * (one.confidence or 0) for one in bins) / images
        right = sum(one.count * (one.accuracy or 0) for one in bins) / images
        word = "overconfident" if sure - right > EVEN else "underconfident" if right - sure > EVEN else "even"
        told.setdefault(word, []).append(f"{named(arm)} ({percent(sure)} sure, {percent(right)} right)")
    sentence = "; ".join(f"{word} on average: {listed(arms)}" for word, arms in told.items())
    return f"{sentence[0].upper()}{sentence[1:]}. {_chance(metrics)} {_temperature(metrics)}"


def _chance(metrics: Metrics) -> str:
    """Whether the calibration errors are more than the number of test images explains."""
    more: list[str] = []
    less: list[str] = []
    for arm, it in metrics.arms.items():
        own = it.calibration
        told = f"{named(arm)} ({own.ece:.3f}; by chance {own.ece_by_chance:.3f}, seldom above {own.ece_limit:.3f})"
        (more if own.ece > own.ece_limit else less).append(told)
    sentences = []
    if more:
        sentences.append(f"The calibration error is more than chance explains for {listed(more)}.")
    if less:
        start = "It may be" if more else "The calibration error may be"
        sentences.append(f"{start} chance alone for {listed(less)}.")
    return " ".join(sentences)


def _temperature(metrics: Metrics) -> str:
    """What fitted temperatures do to the calibration error on test, or why there are none."""
    found = {arm: it.calibration for arm, it in metrics.arms.items()}
    without: dict[str, list[str]] = {}
    for arm, it in found.items():
        if it.temperature is None:
            without.setdefault(it.reason, []).append(named(arm))
    fitted = {arm: (it.ece, it.ece_after) for arm, it in found.items() if it.ece_after is not None}
    if not fitted and len(without) == 1:
        return f"No temperature is used: {next(iter(without))}."
    sentences = [f"None is used for {listed(arms)}: {why}." for why, arms in without.items()]
    if fitted:
        lower = [named(arm) for arm, (before, after) in fitted.items() if after < before]
        higher = [named(arm) for arm, (before, after) in fitted.items() if after >= before]
        of = "no arm" if not lower else listed(lower) + (f", not of {listed(higher)}" if higher else "")
        why = found[next(iter(fitted))].reason
        sentences.insert(0, f"A temperature, {why}, lowers the calibration error on test of {of}.")
    return " ".join(sentences)


def _agreement(metrics: Metrics) -> str:
    found = metrics.agreement
    if len(metrics.arms) == 1:
        return ""
    images = metrics.splits["test"]
    seeds = max(len(it.trials) for it in metrics.arms.values())
    sentence = (
        f"{'With the first seed, every' if seeds > 1 else 'Every'} arm is right on {count(found.all_right)} of "
        f"{count(images, 'test image')} and none on {count(found.none_right)}"
    )
    most = max(found.only_right.values())
    alone = [named(arm) for arm, images in found.only_right.items() if images == most]
    if not most:
        return f"{sentence}. There is no image on which a single arm is right and all others are wrong."
    images_alone = count(most, "image")
    if len(alone) > 1:
        return f"{sentence}. {listed(alone)} are each right on {images_alone} where all other arms are wrong."
    return f"{sentence}. {alone[0]} is right on {images_alone} where all other arms are wrong, the most of any arm."


def _label_errors(metrics: Metrics) -> str:
    found = metrics.label_errors
    looks = "looks" if found.count == 1 else "look"
    wrong = f"{count(found.count) if found.count else 'None'} of {count(found.checked, 'label')} {looks} wrong"
    doubt = " A person should decide: a hard image may look wrong too." if found.count else ""
    if found.precision is not None:
        right = f"about {percent(found.precision, 0)} of them are expected to be wrong indeed"
        worst = [it for it in found.classes if it.count >= FEW_ERRORS]
        each = listed(
            [f"{percent(it.precision, 0)} of the {it.count:,} labelled {short(it.label)}" for it in worst[:5]]
        )
        doubt = f" {right[:1].upper()}{right[1:]}{f': {each}' if len(worst) > 1 else ''}.{doubt}"
    return f"{wrong}.{doubt} They were checked by {found.method}."


def _slice(column: str, value: str) -> str:
    return f"{short(column)} {short(value)}"
