"""A hook of mkdocs: the settings of a recipe, and the built-in recipes, written into the page on recipes."""

import json
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from thaw.recipe import UNIONS, Recipe, built_in_recipes, recipe_text

MARK = "<!-- settings -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """What mkdocs calls for each page's text."""
    return markdown.replace(MARK, "\n".join([*settings(), *recipes()])) if MARK in markdown else markdown


def settings() -> list[str]:
    """Each section's keys with what they take, their default and their docstring in `recipe.py`."""
    lines = ["## All settings", "", *_key("name", Recipe.model_fields["name"])]
    for section, field in Recipe.model_fields.items():
        kind = _section(field.annotation)
        if kind is not None:
            lines += [f"### [{'arms.ARM' if section == 'arms' else section}]", "", _joined(kind.__doc__), ""]
            for key, of_key in kind.model_fields.items():
                lines += _key(key, of_key)
    return lines


def recipes() -> list[str]:
    """The built-in recipes, whole."""
    lines = ["## The recipes that come with thaw", ""]
    for name in built_in_recipes():
        lines += [f"### {name}", "", "```toml", recipe_text(name).rstrip(), "```", ""]
    return lines


def _section(annotation: Any) -> type[BaseModel] | None:
    """The section that a field holds, alone or by name."""
    kinds = [annotation, *get_args(annotation)]
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def _key(key: str, field: FieldInfo) -> list[str]:
    """A key as an entry of a definition list."""
    takes = UNIONS.get(key) or " or ".join(dict.fromkeys(_kinds(field.annotation)))
    default = "must be given" if field.is_required() else ""
    if not field.is_required() and field.default is not None:
        default = "default `" + json.dumps(field.default) + "`"
    return [f"**`{key}`** {'; '.join(filter(None, (takes, default)))}", f":   {_joined(field.description)}", ""]


def _kinds(annotation: Any) -> list[str]:
    """What a type is called in TOML, each alternative."""
    names = {str: "text", int: "whole number", float: "number", bool: "true, false", type(None): ""}
    if annotation in names:
        return [names[annotation]] if names[annotation] else []
    inner = get_args(annotation)
    if getattr(annotation, "__origin__", None) is list:
        return [f"list of {' or '.join(_kinds(inner[0]))}s"]
    if inner and all(isinstance(word, str) for word in inner):
        return [", ".join(f"`{word}`" for word in inner)]
    if hasattr(annotation, "__metadata__"):
        return _kinds(inner[0])
    return [name for kind in inner for name in _kinds(kind)]


def _joined(text: str | None) -> str:
    return " ".join((text or "").split())
