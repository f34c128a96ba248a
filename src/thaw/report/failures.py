"""Where arms fail, in plain English: sentences on slices, calibration, agreement and labels, from `metrics.json`."""

from typing import Any

from thaw.report.ranking import Metrics
from thaw.scoring.comparison import ALPHA
from thaw.text import count, listed, named, percent, points, probability, short, signed

EVEN = 0.01
"""Confidence within a point of accuracy is called even."""


def failures(metrics: Metrics) -> dict[str, str]:
    """By part, a paragraph on it: `slices`, `calibration`, `agreement`, `suspects`; parts a run lacks are left out.

    Names of arms stand in backticks. Slices are told for the recommended arm.
    """
    told = {
        "slices": _slices(metrics),
        "calibration": _calibration(metrics),
        "agreement": _agreement(metrics),
        "suspects": _suspects(metrics),
    }
    return {part: paragraph for part, paragraph in told.items() if paragraph}


def gap_told(column: str, gap: dict[str, Any]) -> str:
    """What the largest gap between two slices of a column is, and what its test says; without a full stop."""
    low, high = (signed(end) for end in gap["interval"])
    p = probability(gap["p_corrected"])
    evidence = f"95% interval {low} to {high}; corrected p {p if p.startswith('<') else f'= {p}'}"
    pair = f"{_slice(column, gap['low'])} is {points(gap['difference'])} harder than {_slice(column, gap['high'])}"
    doubt = "" if gap["p_corrected"] < ALPHA else ", which chance alone may explain"
    return f"{pair} ({evidence}){doubt}"


def gaps(metrics: Metrics, arm: str) -> list[tuple[str, dict[str, Any]]]:
    """The largest gap of each column that has one, for an arm: the surest first, then the widest."""
    found = [(it["column"], it["gaps"][arm]) for it in metrics.get("slices", []) if it["gaps"].get(arm)]
    return sorted(found, key=lambda pair: (pair[1]["p_corrected"] >= ALPHA, -pair[1]["difference"]))


def small_slices(of_column: dict[str, Any]) -> str:
    """Which slices of a column are too small to rely on, as a sentence; empty where none is."""
    small = [f"{short(it['value'])} ({it['count']})" for it in of_column["values"] if it["small"]]
    if not small:
        return ""
    verb = "has" if len(small) == 1 else "have"
    left_out = ", and left out of the largest gap" if len(of_column["values"]) > 2 else ""
    return f"{listed(small)} {verb} fewer than 30 images: read with care{left_out}."


def _slices(metrics: Metrics) -> str:
    arm, columns = metrics["recommended"], metrics.get("slices", [])
    found = gaps(metrics, arm)
    if not columns:
        return ""
    if not found:
        return f"No column has two slices of 30 test images or more, so no gap of {named(arm)} can be tested."
    clear = [(column, gap) for column, gap in found if gap["p_corrected"] < ALPHA]
    sentences = []
    if clear:
        column, gap = clear[0]
        sentences.append(f"For {named(arm)}, {gap_told(column, gap)}.")
        if others := [short(name) for name, _ in clear[1:]]:
            sentences.append(f"The test set also shows a gap by {listed(others)}.")
    unclear = [short(column) for column, gap in found if gap["p_corrected"] >= ALPHA]
    if unclear:
        start = "It" if clear else f"For {named(arm)}, the test set"
        sentences.append(f"{start} shows no gap by {listed(unclear, 'or')} beyond what chance may explain.")
    if not clear:
        sentences.append(f"The widest: {gap_told(*found[0])}.")
    return " ".join(sentences)


def _calibration(metrics: Metrics) -> str:
    told: dict[str, list[str]] = {}
    for arm, it in metrics["arms"].items():
        if not it.get("calibration"):
            continue
        found = it["calibration"]
        filled = [one for one in found["bins"] if one["count"]]
        images = sum(one["count"] for one in filled)
        sure = sum(one["count"] * one["confidence"] for one in filled) / images
        right = sum(one["count"] * one["accuracy"] for one in filled) / images
        word = "overconfident" if sure - right > EVEN else "underconfident" if right - sure > EVEN else "even"
        told.setdefault(word, []).append(f"{named(arm)} ({percent(sure)} sure, {percent(right)} right)")
    if not told:
        return ""
    sentence = "; ".join(f"{word} on average: {listed(arms)}" for word, arms in told.items())
    return f"{sentence[0].upper()}{sentence[1:]}. {_temperature(metrics)}"


def _temperature(metrics: Metrics) -> str:
    """What fitted temperatures do to the calibration error on test, or why there are none."""
    found = {arm: it["calibration"] for arm, it in metrics["arms"].items() if it.get("calibration")}
    without: dict[str, list[str]] = {}
    for arm, it in found.items():
        if it["temperature"] is None:
            without.setdefault(it["why"], []).append(named(arm))
    fitted = {arm: it for arm, it in found.items() if it["temperature"] is not None}
    if not fitted and len(without) == 1:
        return f"No temperature was fitted: {next(iter(without))}."
    sentences = [f"None was fitted for {listed(arms)}: {why}." for why, arms in without.items()]
    if fitted:
        lower = [named(arm) for arm, it in fitted.items() if it["ece_after"] < it["ece"]]
        higher = [named(arm) for arm, it in fitted.items() if it["ece_after"] >= it["ece"]]
        of = "no arm" if not lower else listed(lower) + (f", not of {listed(higher)}" if higher else "")
        why = next(it["why"] for it in fitted.values())
        sentences.insert(0, f"A temperature, {why}, lowers the calibration error on test of {of}.")
    return " ".join(sentences)


def _agreement(metrics: Metrics) -> str:
    found = metrics.get("agreement")
    if not found or len(metrics["arms"]) == 1:
        return ""
    images = metrics["splits"]["test"]
    seeds = max(len(it["runs"]) for it in metrics["arms"].values())
    sentence = (
        f"{'With the first seed, every' if seeds > 1 else 'Every'} arm is right on {count(found['all_right'])} of "
        f"{count(images, 'test image')} and none on {count(found['none_right'])}"
    )
    most = max(found["only"].values())
    alone = [named(arm) for arm, images in found["only"].items() if images == most]
    if not most:
        return f"{sentence}; no arm is alone in being right on any."
    if len(alone) > 1:
        return f"{sentence}; {listed(alone)} are each alone in being right on {count(most)}."
    return f"{sentence}; {alone[0]} is alone in being right on {count(most)}, more than any other arm."


def _suspects(metrics: Metrics) -> str:
    found = metrics.get("suspects")
    if not found:
        return ""
    looks = "looks" if found["count"] == 1 else "look"
    wrong = f"{count(found['count']) if found['count'] else 'None'} of {count(found['checked'], 'label')} {looks} wrong"
    doubt = " A person should decide: a hard image is suspect too." if found["count"] else ""
    return f"{wrong}.{doubt} They were checked by {found['method']}."


def _slice(column: str, value: str) -> str:
    return f"{short(column)} {short(value)}"
