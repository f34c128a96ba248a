"""A hook of mkdocs: writes the settings of a recipe, and the keys of `metrics.json` and `networks.json`, into pages."""

import json
import re
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from thaw.recipe import UNIONS, Recipe, built_in_recipes, recipe_text
from thaw.run.metrics import Metrics
from thaw.run.networks import Networks

RECIPES, METRICS = "<!-- settings -->", "<!-- metrics -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in the text of a page; mkdocs calls this for each."""
    if RECIPES in markdown:
        return markdown.replace(RECIPES, "\n".join([*settings(), *recipes()]))
    return markdown.replace(METRICS, "\n".join(metrics())) if METRICS in markdown else markdown


def settings() -> list[str]:
    """List each section's keys with what they take, their default and their docstring in `recipe.py`."""
    lines = ["## All settings", "", *_key("name", Recipe.model_fields["name"])]
    for section, field in Recipe.model_fields.items():
        kind = _section(field.annotation)
        if kind is not None:
            table = f"{section}.ARM" if section in ("arms", "published") else section
            lines += [f"### [{table}]", "", _joined(kind.__doc__), ""]
            for key, of_key in kind.model_fields.items():
                lines += _key(key, of_key)
    return lines


def recipes() -> list[str]:
    """Show the built-in recipes, whole."""
    lines = ["## The recipes that come with thaw", ""]
    for name in built_in_recipes():
        lines += [f"### {name}", "", "```toml", recipe_text(name).rstrip(), "```", ""]
    return lines


def metrics() -> list[str]:
    """List the keys of every record in `metrics.json` and `networks.json`: each whole, then what they are made of."""
    lines, records = list[str](), [Metrics, Networks]
    for record in records:
        lines += [f"## {record.__name__}", "", _joined(record.__doc__), ""]
        for key, field in record.model_fields.items():
            told = re.sub(r"\bNone\b", "`null`", _joined(field.description))
            lines += [f"**`{key}`** {_type(field.annotation)}", f":   {told}", ""]
            records += [kind for kind in _records(field.annotation) if kind not in records]
    return lines


def _records(annotation: Any) -> list[type[BaseModel]]:
    """The records that a type is made of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [kind for inner in get_args(annotation) for kind in _records(inner)]


def _type(annotation: Any) -> str:
    """What a type is called in JSON, a record as a link to its keys."""
    names = {str: "text", int: "whole number", float: "number", bool: "true or false", type(None): "null"}
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation in names:
        return names[annotation]
    if origin is Literal:
        return " or ".join(f"`{json.dumps(value)}`" for value in inner)
    if origin is Annotated:
        return _type(inner[0])
    if origin is list:
        return f"list of {_type(inner[0])}"
    if origin is tuple:
        return f"[{', '.join(map(_type, inner))}]"
    if origin is dict:
        return f"for each {_type(inner[0])}: {_type(inner[1])}"
    if inner:
        return " or ".join(map(_type, inner))
    if is_dataclass(annotation):
        return f"{{{', '.join(f'{one.name}: {_type(one.type)}' for one in fields(annotation))}}}"
    return f"[{annotation.__name__}](#{annotation.__name__.lower()})"


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
