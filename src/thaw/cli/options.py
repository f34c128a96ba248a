"""What plain options of `thaw study` stand for: keys of a recipe, and the folder that a run is given."""

import difflib
import re
from pathlib import Path
from typing import get_origin

import click

from thaw.cli.completion import sections
from thaw.recipe import Arm, Section


def setting_for(option: str) -> str:
    """Return the setting that an unknown option such as `--learning-rate` probably means; empty for none.

    It is quoted for a shell. Its key is that of the same name, or one of which it is the beginning or the initials, or
    the most similar one.
    """
    word = option.lstrip("-").partition("=")[0].lower().replace("-", "_")
    keys: dict[str, str] = {}
    kinds: dict[str, type[Section]] = {**sections(), "arms.NAME": Arm}
    for section, kind in kinds.items():
        for key, field in kind.model_fields.items():
            is_list = get_origin(field.annotation) is list
            setting = f"'{section}.{key}=[VALUE]'" if is_list else f"{section}.{key}=VALUE"
            keys.setdefault(key, setting)
            keys.setdefault(f"{section}_{key}".lower(), setting)
    if word in keys:
        return keys[word]
    initials = {
        "".join(part[0] for part in key.split("_")): whole for key, whole in reversed(keys.items()) if "_" in key
    }
    if word in initials:
        return initials[word]
    begins = [whole for key, whole in keys.items() if len(word) > 2 and key.startswith(f"{word}_")]
    near = difflib.get_close_matches(word, keys, n=1, cutoff=0.75)
    return begins[0] if begins else keys[near[0]] if near else ""


def side(text: str) -> str:
    """Return the value of `images.size` for `224` or `HEIGHTxWIDTH`. Raises click.BadParameter for anything else."""
    found = re.fullmatch(r"(\d+)(?:x(\d+))?", text.strip().lower(), re.ASCII)
    if found is None:
        raise click.BadParameter(f"--size {text!r} is not a number of pixels; write it like 224 or 160x224")
    return f"[{int(found[1])}, {int(found[2])}]" if found[2] else str(int(found[1]))


def default_folder(source: str | None, recipe: str | None, name: str) -> Path:
    """Return the folder of a run that `--out` does not name, below `runs`.

    Parameters
    ----------
    source
        The SOURCE of the command; its folder or file names the run, so that two sources never meet.
    recipe
        The recipe of the command, which comes behind it.
    name
        The recipe's own name, for a study without a SOURCE.
    """
    if source is None:
        return Path("runs") / slug(name)
    own = source.split(":", 1)[-1] if source.startswith(("hf:", "thaw:")) else Path(source).resolve().name
    stem = Path(own).stem if Path(source).is_file() else own.replace("/", "-")
    return Path("runs") / "-".join(filter(None, (slug(stem), recipe and slug(Path(recipe).stem))))


def slug(name: str) -> str:
    """Return a name as one plain word for a folder: what is no letter, digit, dot or hyphen becomes a hyphen."""
    return re.sub(r"[^\w.-]+", "-", name).strip(".-") or "study"
