"""What the shell offers when Tab is pressed: recipes, the keys of `--set` and their values."""

from typing import Literal, get_args, get_origin

import click
from click.shell_completion import CompletionItem, get_completion_class

from thaw.recipe import Arm, Recipe, Section, built_in_recipes, recipe_text

SHELLS = ("bash", "zsh", "fish")


def script(shell: str, cli: click.Group) -> str:
    """The shell code that has `shell` ask thaw what to offer."""
    kind = get_completion_class(shell)
    assert kind is not None, "one of SHELLS"
    return kind(cli, {}, "thaw", "_THAW_COMPLETE").source()


def complete_recipe(_: click.Context, __: click.Parameter, begun: str) -> list[CompletionItem]:
    """The built-in recipes that start so, each with its first line; and files."""
    names = [name for name in built_in_recipes() if name.startswith(begun)]
    files = [] if names and begun else [CompletionItem(begun, type="file")]
    return [CompletionItem(name, help=recipe_text(name).splitlines()[0].removeprefix("# ")) for name in names] + files


def complete_file(_: click.Context, __: click.Parameter, begun: str) -> list[CompletionItem]:
    """Files and folders."""
    return [CompletionItem(begun, type="file")]


def complete_setting(_: click.Context, __: click.Parameter, begun: str) -> list[CompletionItem]:
    """The keys of a recipe as `key=`, and as `key=value` where a key takes one of a few words."""
    return [item for item in _settings() if str(item.value).startswith(begun)]


def _settings() -> list[CompletionItem]:
    sections: dict[str, type[Section]] = {
        name: field.annotation
        for name, field in Recipe.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
    }
    arms = {f"arms.{arm}": Arm for arm in ("scratch", "head", "everything")}
    items = [CompletionItem("name=", help=_first_sentence(Recipe.model_fields["name"].description))]
    for section, kind in (sections | arms).items():
        for key, field in kind.model_fields.items():
            items += [
                CompletionItem(f"{section}.{key}={value}", help=_first_sentence(field.description))
                for value in _words(field.annotation) or [""]
            ]
    return items


def _words(annotation: object) -> list[str]:
    """The words of a `Literal`, also where the key may be left out."""
    kinds = [annotation, *get_args(annotation)]
    return [str(word) for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]


def _first_sentence(text: str | None) -> str:
    return " ".join((text or "").split()).partition(". ")[0]
