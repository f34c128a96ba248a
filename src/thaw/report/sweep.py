"""What a sweep shows, in words: whether thawing more helps, and whether more labels would."""

from thaw.report.ranking import Lead, apart, gap_between, pairs, spanned
from thaw.run.metrics import METRICS, Metrics, verdict_interval
from thaw.text import count, named, percent

LEAST = 3
"""Depths that make a curve."""


def by_depth(metrics: Metrics) -> list[str]:
    """Return the best arm at each depth, the one that thaws least first; empty of fewer than three depths."""
    best: dict[float, str] = {}
    for arm, it in metrics.arms.items():
        if it.thawed:
            other = best.setdefault(it.thawed.arithmetic, arm)
            best[it.thawed.arithmetic] = max(other, arm, key=lambda one: _score(metrics, one))
    return [best[depth] for depth in sorted(best)] if len(best) >= LEAST else []


def score_intervals(metrics: Metrics) -> dict[str, tuple[float, float]]:
    """Return the 95% interval of each arm's score by the verdict's metric, where there is one; else the score twice."""
    return {arm: verdict_interval(metrics, arm) for arm in metrics.arms}


def thawing(metrics: Metrics) -> str:
    """Say what thawing more brings; empty where there is no curve of it. Names of arms are in backticks."""
    depths = by_depth(metrics)
    if not depths:
        return ""
    least, most, top = depths[0], depths[-1], max(depths, key=lambda arm: _score(metrics, arm))
    if top == least:
        second = max(depths[1:], key=lambda arm: _score(metrics, arm))
        gap = _lead(metrics, least, second)
        behind = f"is behind by {_gap(metrics, gap)}" if gap.gap else "scores the same"
        return f"Thawing more than {named(least)} brings nothing here: the best that does, {named(second)}, {behind}."
    thawed = metrics.arms[top].thawed
    share = f", which thaws {percent(thawed.arithmetic, 0)} of the arithmetic," if thawed and top != most else ""
    rise = _gap(metrics, _lead(metrics, top, least))
    told = f"From {named(least)} to {named(top)}{share} {METRICS[metrics.verdict.metric]} rises by {rise}"
    if top != most:
        gap = _lead(metrics, top, most)
        told += f"; {named(most)} is lower by {_gap(metrics, gap)}" if gap.gap else f"; {named(most)} scores the same"
    return f"{told}."


def labelling(metrics: Metrics) -> str:
    """Say what the last labels brought the best arm, and what thawing more would; empty without a sweep of labels.

    Nothing is said of more labels than there are.
    """
    if metrics.labels is None:
        return ""
    best, curve = metrics.best, metrics.labels.arms[metrics.best]
    before, whole = curve.points[-2:]
    low, high = curve.gain_interval
    moved = "gains" if curve.gain >= 0 else "loses"
    told = (
        f"With {count(whole.images, 'image')} to train on instead of {count(before.images)}, {named(best)}, the best "
        f"arm, {moved} {apart(metrics, curve.gain)} ({spanned(metrics, curve.gain_interval)})"
    )
    if low > 0:
        told += ": up to here, more labels help"
    elif high < 0:
        told += ": more labels do not help"
    else:
        told += ", which may be chance: that more labels would help is not shown"
    return f"{told}{_deeper(metrics)}."


def _deeper(metrics: Metrics) -> str:
    """What thawing more than the best arm costs, or where that thaws most what it brings, as a further clause."""
    best, depths = metrics.best, by_depth(metrics)
    if best not in depths:
        return ""
    place = depths.index(best)
    if place + 1 < len(depths):
        gap = _lead(metrics, best, depths[place + 1])
        loses = f"loses {_gap(metrics, gap)}" if gap.gap else "changes nothing"
        return f". Thawing more, as {named(gap.over)} does, {loses}"
    gap = _lead(metrics, best, depths[place - 1])
    brings = f"brings {_gap(metrics, gap)}" if gap.gap else "brings nothing"
    return f". It thaws the most of all, which over {named(gap.over)} {brings}"


def _gap(metrics: Metrics, lead: Lead) -> str:
    return f"{apart(metrics, lead.gap)} ({gap_between(metrics, lead)}){'' if lead.clear else ', which may be chance'}"


def _lead(metrics: Metrics, ahead: str, over: str) -> Lead:
    """The lead of one arm over another that is not above it."""
    lead = next(lead for lead in pairs(metrics) if {lead.ahead, lead.over} == {ahead, over})
    return lead if lead.gap else lead._replace(ahead=ahead, over=over)


def _score(metrics: Metrics, arm: str) -> float:
    return metrics.verdict.arms[arm].score
