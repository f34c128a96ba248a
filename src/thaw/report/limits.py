"""What a study cannot say, and how its models may be used: sentences computed from `metrics.json`."""

import re
from typing import Any

from thaw.report.failures import gap_told, gaps
from thaw.report.ranking import Metrics, pairs, too_few
from thaw.text import count, listed, named, percent, points, short, signed

PEOPLE = {
    *("woman", "women", "man", "men", "girl", "girls", "boy", "boys", "female", "male", "gender", "sex"),
    *("age", "ages", "race", "ethnicity", "skin", "face", "faces"),
    *("person", "persons", "people", "child", "children", "adult", "adults"),
}
"""A study that uses one of these as a whole word, in its name or that of a class, a slice's column or the group, is
taken to be of people."""


FEW = 100
"""Bootstrap intervals of a smaller test set hold the truth less often than they say, see docs/log.md."""


def people(metrics: Metrics) -> list[str]:
    """The names of recipe, classes and columns that make this a study of people; none where it is not."""
    columns = [it["column"] for it in metrics.get("slices", [])]
    names = [metrics["recipe"], *metrics["classes"], *columns, metrics["data"]["group"] or ""]
    return [name for name in dict.fromkeys(names) if PEOPLE & set(re.split(r"[^a-z]+", name.lower()))]


def limits(metrics: Metrics) -> dict[str, str]:
    """By heading, a sentence or two on what this study cannot say. Names of arms stand in backticks."""
    told = {
        "New images": _new_images(metrics),
        "Test set": _test_set(metrics),
        "Seeds": _seeds(metrics),
        "Choice": _choice(metrics),
        "Labels": _labels(metrics),
        "Leaks": leak(metrics),
    }
    return {heading: paragraph for heading, paragraph in told.items() if paragraph}


def narrow(metrics: Metrics) -> str:
    """That bootstrap intervals are too narrow where the test set is small; empty where it is not."""
    images = metrics["splits"]["test"]
    if images >= FEW:
        return ""
    return (
        f"With {count(images, 'test image')}, the intervals of precision, recall and F1 are somewhat too narrow: of "
        "simulated studies with 50, 95% intervals of F1 held the truth in 90.5%."
    )


def leak(metrics: Metrics) -> str:
    """What test images with a duplicate among the training images are worth; empty where that is not known."""
    found = metrics.get("audit", {}).get("leak")
    if not found:
        return ""
    low, high = found["interval"]
    images = f"{count(found['test_images'])} of {count(metrics['splits']['test'], 'test image')}"
    gap = f"a difference of {points(found['worth'])} (95% interval {signed(low)} to {signed(high)})"
    told = f"{gap} that chance may explain" if low <= 0 <= high else gap
    return (
        f"{images} have a duplicate in another split. A linear probe is right on {percent(found['accuracy'])} as they "
        f"are split and on {percent(found['accuracy_grouped'])} where duplicates stay together, {told}; every accuracy "
        "here is as they are split."
    )


def sizes(metrics: Metrics) -> str:
    """How many images there are, and of what size."""
    found = metrics["audit"]
    smallest, median, largest = (
        f"{wide} × {high} pixels" for wide, high in (found["sizes"][name] for name in ("smallest", "median", "largest"))
    )
    images = count(found["images"], "image")
    if smallest == largest:
        return f"{images}, all of {largest}."
    return f"{images}, the smallest of {smallest}, the median of {median}, the largest of {largest}."


def harm(metrics: Metrics) -> str:
    """Where the recommended arm serves some people worse, or that the study cannot tell."""
    arm = metrics["recommended"]
    found = gaps(metrics, arm)
    if found:
        return f"For {named(arm)}: {'; '.join(gap_told(column, gap) for column, gap in found[:3])}."
    if metrics.get("slices"):
        return (
            "No column has two slices of 30 test images or more, so this study cannot say whom its models serve worse. "
            "Test on more images before a model is used on people."
        )
    return (
        "This study has no column to slice by, so it cannot say whom its models serve worse. Add columns such as age "
        "or skin tone to the data before a model is used on people."
    )


def findings(metrics: Metrics) -> list[dict[str, Any]]:
    """What the data audit found, errors first, each a sentence."""
    order = {"error": 0, "warning": 1, "note": 2}
    found = [
        {**it, "what": f"{it['what'][:1].upper()}{it['what'][1:].rstrip('.')}."}
        for it in metrics.get("audit", {}).get("findings", [])
    ]
    return sorted(found, key=lambda it: order.get(it["severity"], 3))


def _new_images(metrics: Metrics) -> str:
    return (
        f"Every number here is about images like those of {short(metrics['data']['source'])}. Other cameras, places or "
        "people may give other numbers, and the order of the arms may change with them."
    )


def _test_set(metrics: Metrics) -> str:
    unclear = [lead for lead in pairs(metrics) if not lead.clear]
    images = count(metrics["splits"]["test"], "test image")
    if few := too_few(metrics):
        return f"{few[0].upper()}{few[1:]}."
    if not unclear:
        return f"{images} tell every pair of arms apart." if len(metrics["arms"]) > 1 else ""
    told = [f"{named(lead.ahead)} from {named(lead.over)}" for lead in unclear]
    shown = told if len(told) <= 4 else [*told[:3], f"the arms of {len(told) - 3} more pairs"]
    return f"{images} cannot tell {listed(shown, 'or')}; that is no proof that they are alike."


def _seeds(metrics: Metrics) -> str:
    if len(metrics["arms"][metrics["best"]]["runs"]) > 1:
        return ""
    return "Each arm was trained once. Another seed gives another model, and how far it would move was not measured."


def _choice(metrics: Metrics) -> str:
    number = len(metrics["arms"])
    if number == 1:
        return ""
    return (
        f"Picking the best of {number} after looking flatters it slightly: on new images expect a little less, the "
        "more so the closer the arms are."
    )


def _labels(metrics: Metrics) -> str:
    found = metrics.get("suspects")
    if not found or not found["count"]:
        return ""
    share = found["count"] / max(1, found["checked"])
    return (
        f"{count(found['count'], 'label')} ({percent(share)}) may be wrong; an arm is blamed where it is right about "
        "those, and praised where it repeats the error."
    )
