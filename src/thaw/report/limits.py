"""What a study cannot say, and how its models may be used: sentences computed from `metrics.json`."""

import re

from thaw.audit.findings import SEVERITIES
from thaw.audit.results import Finding
from thaw.report.failures import describe_gap, gaps
from thaw.report.ranking import pairs, too_few
from thaw.report.verdict import flattery
from thaw.run.metrics import Metrics
from thaw.text import count, listed, named, percent, points, short, signed

PEOPLE = {
    *("woman", "women", "man", "men", "girl", "girls", "boy", "boys", "female", "male", "gender", "sex"),
    *("age", "ages", "race", "ethnicity", "skin", "face", "faces"),
    *("person", "persons", "people", "child", "children", "adult", "adults"),
}
"""A study that uses one of these as a whole word, in its name or that of a class, a slice's column or the group, is
taken to be of people."""


FEW = 100
"""Bootstrap intervals of a smaller test set cover the truth less often than they say: docs/decisions/0007."""


def people(metrics: Metrics) -> list[str]:
    """Return the names of recipe, classes and columns that make this a study of people; none where it is not."""
    columns = [it.column for it in metrics.slices]
    names = [metrics.recipe, *metrics.classes, *columns, metrics.data.group or ""]
    return [name for name in dict.fromkeys(names) if PEOPLE & set(re.split(r"[^a-z]+", name.lower()))]


def limits(metrics: Metrics) -> dict[str, str]:
    """Write, by heading, a sentence or two on what this study cannot say. Names of arms are in backticks."""
    told = {
        "New images": _new_images(metrics),
        "Test set": _test_set(metrics),
        "Seeds": _seeds(metrics),
        "Choice": flattery(metrics),
        "Labels": _labels(metrics),
    }
    return {heading: paragraph for heading, paragraph in told.items() if paragraph}


def narrow(metrics: Metrics) -> str:
    """Say that bootstrap intervals are too narrow where the test set is small; empty where it is not."""
    images = metrics.splits["test"]
    if images >= FEW:
        return ""
    return (
        f"With {count(images, 'test image')}, the intervals of precision, recall and F1 are somewhat too narrow: of "
        "simulated studies with 50, 95% intervals of F1 held the truth in 90.5%."
    )


def leak(metrics: Metrics) -> str:
    """Say how test images with a duplicate in another split change accuracy; empty where that is not known."""
    found = metrics.audit.leak
    if found is None:
        return ""
    low, high = found.interval
    images = f"{count(metrics.audit.leaked)} of {count(metrics.splits['test'], 'test image')}"
    gap = f"a difference of {points(found.effect)} (95% interval {signed(low)} to {signed(high)})"
    told = f"{gap} that chance may explain" if low <= 0 <= high else gap
    return (
        f"{images} have a duplicate in another split. A linear probe is right on {percent(found.accuracy)} as they "
        f"are split and on {percent(found.accuracy_grouped)} where duplicates stay together, {told}; every accuracy "
        "here is as they are split."
    )


def sizes(metrics: Metrics) -> str:
    """Say how many images there are, and of what size."""
    images, found = count(metrics.audit.images, "image"), metrics.audit.sizes
    if found is None:
        return f"{images}."
    smallest, median, largest = (
        f"{wide} × {high} pixels" for wide, high in (found.smallest, found.median, found.largest)
    )
    if smallest == largest:
        return f"{images}, all of {largest}."
    return f"{images}, the smallest of {smallest}, the median of {median}, the largest of {largest}."


def harm(metrics: Metrics) -> str:
    """Say where the recommended arm serves some people worse, or that the study cannot tell."""
    arm = metrics.recommended
    found = gaps(metrics, arm)
    if found:
        return f"For {named(arm)}: {'; '.join(describe_gap(column, gap) for column, gap in found[:3])}."
    if metrics.slices:
        return (
            "No column has two slices of 30 test images or more, so this study cannot say whom its models serve worse. "
            "Test on more images before a model is used on people."
        )
    return (
        "This study has no column to slice by, so it cannot say whom its models serve worse. Add columns such as age "
        "or skin tone to the data before a model is used on people."
    )


def findings(metrics: Metrics) -> list[Finding]:
    """Return what the audit found as whole sentences, errors first."""
    found = [
        Finding(severity=it.severity, what=f"{it.what[:1].upper()}{it.what[1:].rstrip('.')}.")
        for it in metrics.audit.findings
    ]
    return sorted(found, key=lambda it: SEVERITIES.index(it.severity))


def _new_images(metrics: Metrics) -> str:
    return (
        f"Every number here is about images like those of {short(metrics.data.source)}. Other cameras, places or "
        "people may give other numbers, and the order of the arms may change with them."
    )


def _test_set(metrics: Metrics) -> str:
    unclear = [lead for lead in pairs(metrics) if not lead.clear]
    images = count(metrics.splits["test"], "test image")
    if few := too_few(metrics):
        return f"{few[0].upper()}{few[1:]}."
    if not unclear:
        return f"{images} tell every pair of arms apart." if len(metrics.arms) > 1 else ""
    told = [f"{named(lead.ahead)} from {named(lead.over)}" for lead in unclear]
    shown = told if len(told) <= 4 else [*told[:3], f"the arms of {len(told) - 3} more pairs"]
    return f"{images} cannot tell {listed(shown, 'or')}; that is no proof that they are alike."


def _seeds(metrics: Metrics) -> str:
    if len(metrics.arms[metrics.best].trials) > 1:
        return ""
    return "Each arm was trained once. Another seed gives another model, and how far it would move was not measured."


def _labels(metrics: Metrics) -> str:
    found = metrics.label_errors
    if not found.count:
        return ""
    return (
        f"{count(found.count, 'label')} ({percent(found.count / found.checked)}) may be wrong; there an arm that is "
        "right counts as wrong, and one that repeats the error counts as right."
    )
