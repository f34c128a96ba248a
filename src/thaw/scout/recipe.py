"""What was found, in a sentence, and the recipe of the study that it is worth."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import tomlkit

from thaw.cache.files import write_atomic
from thaw.errors import StorageError
from thaw.init.recipe import comment, source_from
from thaw.recipe import Recipe, load_recipe, recipe_text
from thaw.scout.probes import WITHIN, Network, Scouted
from thaw.text import count, escape_line, percent, points, signed
from thaw.training.depths import Probe

SHOWN = 10
"""Depths of a network in the table, about."""
ARMS = """
[arms.last-stage]
train = "last-stage"

[arms.everything]
train = "all"
"""


def check_free(out: Path) -> None:
    """Raise StorageError where something is there, which is not to be overwritten."""
    if out.exists():
        raise StorageError(f"{out} is already there and is left as it is; give another file with --out.")


def headline(scouted: Scouted) -> str:
    """Say in a sentence which study is worth running."""
    network, probe = scouted.chosen
    of = f"{percent(probe.accuracy)} of {count(scouted.images, 'image')} right, each by a probe of the others"
    if probe.at is None:
        whole = f"the whole {network.backbone} ({of})"
        return f"Worth a study: {whole}; nothing faster comes within {points(WITHIN)} of the best."
    gain, (low, high) = scouted.gain(probe, network.whole)
    faster = network.whole.milliseconds / probe.milliseconds
    than = f"{'more' if gain >= 0 else 'less'} than with its last features (95% {signed(low)} to {signed(high)})"
    return (
        f"Worth a study: {network.backbone} cut after {_place(probe)} ({of}), {points(gain)} {than}, "
        f"{faster:.1f} times as fast."
    )


def caution(scouted: Scouted) -> str:
    """Say what the numbers are, and are not."""
    some = f"{scouted.images:,} of " if scouted.images < scouted.available else ""
    groups = ", whole groups left out" if scouted.groups is not None else ""
    return (
        f"By ridge regression on {some}{scouted.available:,} training and validation images{groups}; no test image was "
        f"looked at. It is the fastest within {points(WITHIN)} of the best of {count(scouted.tried, 'probe')}, and the "
        "best of many is flattered: the study will tell."
    )


def shown(scouted: Scouted, network: Network) -> list[Probe]:
    """The probes of a network to show: all, or of many some evenly spread, with its best, the chosen and the last."""
    best = max(network.probes, key=lambda probe: probe.accuracy)
    places = np.linspace(0, len(network.probes) - 1, min(len(network.probes), SHOWN)).round().astype(int)
    wanted = {int(place) for place in places}
    wanted |= {place for place, probe in enumerate(network.probes) if probe is best or probe is scouted.chosen[1]}
    return [network.probes[place] for place in sorted(wanted)]


def write_study(scouted: Scouted, name_or_file: str, out: Path) -> None:
    """Write the recipe of the study worth running; `out` must not be there yet.

    Parameters
    ----------
    scouted
        What was found.
    name_or_file
        What its recipe was loaded from, see `load_recipe`; its comments stay.
    out
        The file.

    Raises
    ------
    StorageError
        It is there, or cannot be written.
    """
    check_free(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(out, study_text(scouted, name_or_file, out))
    except OSError as error:
        raise StorageError(f"{out} cannot be written: {error.strerror}; give another file with --out.") from error


def study_text(scouted: Scouted, name_or_file: str, out: Path) -> str:
    """The text of that recipe: what was given, with the network that was chosen, and arms to compare its depths."""
    network, probe = scouted.chosen
    lines = recipe_text(name_or_file).splitlines()
    without_title = itertools.dropwhile(lambda line: not line.strip() or line.startswith("#"), lines)
    document = tomlkit.parse("\n".join(without_title) + "\n")
    for other in ("name", "arms"):
        document.pop(other, None)
    for section, key, value in _changes(network.recipe, load_recipe(name_or_file, network.recipe.data.source)):
        table = document.setdefault(section, tomlkit.table())
        if value is None:
            table.pop(key, None)
        else:
            table[key] = value
    document.setdefault("data", tomlkit.table())["source"] = source_from(network.recipe.data.source, out)
    document.setdefault("model", tomlkit.table())["weights"] = network.recipe.model.weights
    lines = [
        *comment(f"Written by thaw scout. {headline(scouted)}"),
        *comment(caution(scouted)),
        f"#   thaw study --recipe {escape_line(out.name)}",
        "",
        tomlkit.dumps(document).strip(),
        "",
        *_arms(network, probe),
    ]
    return "\n".join(lines)


def _changes(wanted: Recipe, before: Recipe) -> list[tuple[str, str, Any]]:
    """What to change in a recipe, by section and key; None for a key to leave out."""
    was = before.model_dump()
    return [
        (section, key, value)
        for section, values in wanted.model_dump().items()
        if isinstance(values, dict) and section != "arms"
        for key, value in values.items()
        if value != was[section][key]
    ]


def _arms(network: Network, probe: Probe) -> list[str]:
    told = f"{percent(network.whole.accuracy)} by leave-one-out"
    lines = [f"[arms.head]                         # {told}", 'train = "head"', 'head = "linear"']
    if probe.at is not None:
        place = [f"at = {tomlkit.item(probe.at).as_string()}", *([f"grid = {probe.grid}"] if probe.grid > 1 else [])]
        told = f"{percent(probe.accuracy)} by leave-one-out"
        lines += ["", f"[arms.cut]                          # {told}", 'train = "head"', 'head = "linear"', *place]
        lines += ["", "[arms.cut-everything]", 'train = "all"', *place]
    return [*lines, *ARMS.splitlines(), ""]


def _place(probe: Probe) -> str:
    return f"{probe.at}, pooled to {probe.grid} x {probe.grid}" if probe.grid > 1 else str(probe.at)
