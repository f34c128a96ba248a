"""Shell completion: commands, recipes, and the keys of `--set` with their values."""

from typing import Literal, get_args, get_origin

import click
from click.shell_completion import CompletionItem, get_completion_class

from thaw.recipe import Arm, Recipe, Section, built_in_recipes, recipe_text

SHELLS = ("bash", "zsh", "fish")


def script(shell: str, cli: click.Group) -> str:
    """Return the script that makes `shell`, one of SHELLS, complete the arguments of `thaw`."""
    kind = get_completion_class(shell)
    assert kind is not None, "one of SHELLS"
    return kind(cli, {}, "thaw", "_THAW_COMPLETE").source()


def complete_recipe(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the built-in recipes that start with `incomplete`, each with its first line, and files."""
    names = [name for name in built_in_recipes() if name.startswith(incomplete)]
    files = [] if names and incomplete else [CompletionItem(incomplete, type="file")]
    return [CompletionItem(name, help=recipe_text(name).splitlines()[0].removeprefix("# ")) for name in names] + files


def complete_file(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Let the shell complete files and folders."""
    return [CompletionItem(incomplete, type="file")]


def complete_setting(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the keys of a recipe as `key=`, or as one `key=value` per choice where the choices are fixed."""
    return [item for item in _settings() if str(item.value).startswith(incomplete)]


def sections() -> dict[str, type[Section]]:
    """Return the sections of a recipe that have fixed names, and what holds the keys of each."""
    return {
        name: field.annotation
        for name, field in Recipe.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
    }


def _settings() -> list[CompletionItem]:
    arms = {f"arms.{arm}": Arm for arm in ("scratch", "head", "everything")}
    items = [CompletionItem("name=", help=_first_sentence(Recipe.model_fields["name"].description))]
    for section, kind in (sections() | arms).items():
        for key, field in kind.model_fields.items():
            items += [
                CompletionItem(f"{section}.{key}={value}", help=_first_sentence(field.description))
                for value in _choices(field.annotation) or [""]
            ]
    return items


def _choices(annotation: object) -> list[str]:
    """Return the values of a `Literal`, or of an optional one."""
    kinds = [annotation, *get_args(annotation)]
    return [str(value) for kind in kinds if get_origin(kind) is Literal for value in get_args(kind)]


def _first_sentence(text: str | None) -> str:
    return " ".join((text or "").split()).partition(". ")[0]
