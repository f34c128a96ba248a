"""The tables of quality.py, from the files that it writes: accuracies, paired differences and seconds."""

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

PEERS = ("regression", "plain-loop", "tutorial", "tutorial-head", "fastai")
OWN_PEERS = {"everything": "plain-loop", "head": "regression"}
"""The peer that does what an arm does."""
RESAMPLES = 4000
NOTE = """
95% intervals of paired differences. Those of a set (±) and `over draws` are Student's t over the draws: for these sets
and other draws; draws share test images, so that they are somewhat short. `over sets and draws` is a hierarchical
bootstrap: sets are drawn anew, each with all its sizes, then draws of each; it is short for so few sets. The best peer
of each set is the best on these same test images, which flatters it."""
Results = dict[str, dict[int, dict[str, Any]]]
"""By set and draw: what `run_peer` and `run_thaw` return, by contestant."""
Scores = dict[str, dict[int, float]]
"""Accuracies by set and draw."""


def accuracy(bits: str) -> float:
    """The fraction of ones."""
    return bits.count("1") / len(bits)


def read_results(out: Path, sets: Iterable[str]) -> Results:
    """Everything that is there."""
    found: Results = {name: {} for name in sets if (out / name).is_dir()}
    for name in found:
        for file in sorted((out / name).glob("*/*.json")):
            found[name].setdefault(int(file.parent.name), {})[file.stem] = json.loads(file.read_text())
    return found


def print_tables(found: Results, thaw: str) -> None:
    """Accuracies, differences and seconds of what is there, in Markdown."""
    names = [name for name in found if found[name]]
    contestants = dict.fromkeys([*PEERS, *sorted({own for _, _, own, _ in every(found)})])
    rows = {peer: scores(found, peer) for peer in PEERS}
    for own in [own for own in contestants if own not in PEERS]:
        arms = dict.fromkeys(arm for _, _, one, result in every(found) if one == own for arm in result["correct"])
        rows |= {f"{own}: {arm}": scores(found, own, arm) for arm in arms} | {f"{own}: recommended": scores(found, own)}
    print_header("Mean test accuracy in percent (draws)", [*names, "mean"])
    for label, score in rows.items():
        means = [100 * mean(score[name].values()) for name in names]
        cells = [f"{mean:.1f} ({len(score[name])})" for name, mean in zip(names, means, strict=True)]
        print_row(label, [*cells, f"{mean(means):.1f}"])
    if thaw in contestants:
        print_differences(rows, names, thaw)
    print_header("Processor-seconds, mean over draws", [*names, "mean"])
    seconds = {
        own: [mean([by[own]["seconds"] for by in found[name].values() if own in by]) for name in names]
        for own in contestants
    }
    seconds["peers together"] = [sum(values) for values in zip(*(seconds[peer] for peer in PEERS), strict=True)]
    for own, values in seconds.items():
        print_row(own, [f"{value:.0f}" for value in [*values, mean(values)]])
    hours = sum(result["seconds"] for _, _, own, result in every(found) if own in (*PEERS, thaw)) / 3600
    print(f"\nThe peers and {thaw} took {hours:.2f} processor-hours in all, {hours / 2:.2f} hours of two cores.")


def every(found: Results) -> Iterator[tuple[str, int, str, dict[str, Any]]]:
    """Set, draw, contestant and result of everything that is there."""
    return ((name, draw, own, one) for name in found for draw, by in found[name].items() for own, one in by.items())


def scores(found: Results, contestant: str, arm: str | None = None) -> Scores:
    """The accuracy of a contestant's arm, by default of the one that it recommends itself."""
    score: Scores = {name: {} for name in found}
    for name, draw, own, one in every(found):
        if own == contestant and (arm or one["best"]) in one["correct"]:
            score[name][draw] = accuracy(one["correct"][arm or one["best"]])
    return score


def print_differences(rows: dict[str, Scores], names: list[str], thaw: str) -> None:
    """What thaw is ahead by on the same test images, with its intervals."""
    peers = {peer: rows[peer] for peer in PEERS}
    peers["best peer of each set"] = {
        name: max((rows[peer][name] for peer in PEERS), key=lambda score: mean(score.values())) for name in names
    }
    pairs = [("recommended", peer) for peer in peers] + [*OWN_PEERS.items()]
    print_header(f"Points that {thaw} is ahead by", [*names, "mean", "over draws", "over sets and draws"])
    for arm, peer in pairs:
        ours, theirs = rows.get(f"{thaw}: {arm}", {}), peers[peer]
        found = {
            name: np.array([100 * (score - theirs[name][draw]) for draw, score in by.items() if draw in theirs[name]])
            for name, by in ours.items()
        }
        there = {name: values for name, values in found.items() if len(values)}
        if not there:
            continue
        cells = [with_half_width(there[name]) if name in there else "" for name in names]
        ahead, half = mean([values.mean() for values in there.values()]), half_width([*there.values()])
        low, high = resampled(there)
        cells += [f"{ahead:+.2f}", f"{ahead - half:+.2f} to {ahead + half:+.2f}", f"{low:+.2f} to {high:+.2f}"]
        print_row(f"{arm} against {peer}", cells)
    print(NOTE)


def with_half_width(values: NDArray[np.float64]) -> str:
    """The mean over draws and half its interval, which takes two draws."""
    return f"{values.mean():+.1f}" + (f" ± {half_width([values]):.1f}" if len(values) > 1 else "")


def half_width(sets: list[NDArray[np.float64]]) -> float:
    """Half a 95% interval of the mean over sets of their means over draws, by t with Satterthwaite's degrees."""
    if min(map(len, sets)) < 2:
        return float("nan")
    variances = np.array([values.var(ddof=1) / len(values) for values in sets]) / len(sets) ** 2
    if not variances.any():
        return 0.0
    degrees = variances.sum() ** 2 / sum(
        one**2 / (len(values) - 1) for one, values in zip(variances, sets, strict=True)
    )
    return float(student.ppf(0.975, degrees) * variances.sum() ** 0.5)


def resampled(sets: dict[str, NDArray[np.float64]]) -> list[float]:
    """A 95% interval of the same mean, sets drawn anew, with all their sizes, and then draws of each."""
    random, families, means = np.random.default_rng(0), defaultdict(list), []
    for name, values in sets.items():
        families[name.partition("-")[0]].append(values)
    kinds = list(families.values())
    for _ in range(RESAMPLES):
        chosen = [values for kind in random.integers(len(kinds), size=len(kinds)) for values in kinds[kind]]
        means.append(np.mean([random.choice(values, len(values)).mean() for values in chosen]))
    return [float(bound) for bound in np.percentile(means, [2.5, 97.5])]


def mean(values: Collection[float]) -> float:
    """NaN where there is none."""
    return sum(values) / len(values) if values else float("nan")


def print_header(title: str, columns: list[str]) -> None:
    """A title, and the first two lines of a table."""
    print(f"\n{title}\n")
    print_row("", columns)
    print_row("---", ["---"] * len(columns))


def print_row(label: str, cells: Iterable[str]) -> None:
    """A row of a table, NaN left out."""
    print(f"| {label} | {' | '.join('' if 'nan' in cell else cell for cell in cells)} |")
