"""The public names, and that their docstrings tell every parameter, return value and field."""

import ast
import inspect
import re
import textwrap
from collections.abc import Callable
from importlib.metadata import version
from itertools import pairwise
from typing import Any

import pytest

import thaw

PUBLIC = {name: getattr(thaw, name) for name in thaw.__all__}
CLASSES = {
    f"{name}: {kind.__name__}": kind
    for name, public in PUBLIC.items()
    if inspect.isclass(public)
    for kind in public.__mro__
    if kind.__module__.startswith("thaw.")
}
FUNCTIONS = {name: public for name, public in PUBLIC.items() if inspect.isfunction(public)} | {
    f"{name}.{method}": value
    for name, kind in CLASSES.items()
    for method, value in vars(kind).items()
    if inspect.isfunction(value) and not method.startswith("_")
}


def sections(documented: Any) -> dict[str, list[str]]:
    """The numpydoc sections of a docstring, each as the names that head its entries."""
    _, *parts = re.split(r"^(\w+)\n-{3,}\n", inspect.getdoc(documented) or "", flags=re.MULTILINE)
    return {
        title: [name for line in re.findall(r"^\S.*", text, re.MULTILINE) for name in line.split(", ")]
        for title, text in zip(parts[::2], parts[1::2], strict=True)
    }


def test_public_names() -> None:
    assert thaw.__all__ == sorted(thaw.__all__, key=lambda name: (name.islower(), name))
    assert thaw.__all__ == [
        "Bundle",
        "Classifier",
        "Recipe",
        "Run",
        "ThawError",
        "__version__",
        "export_bundle",
        "load",
        "load_recipe",
        "read_run",
        "run_networks",
        "run_study",
    ]
    for public in PUBLIC.values():
        assert public.__doc__
    assert thaw.__version__ == version("thaw-vision")
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        thaw.lod  # noqa: B018


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_every_parameter_and_return_value_has_its_section(function: Callable[..., Any]) -> None:
    signature, told = inspect.signature(function), sections(function)
    assert told.get("Parameters", []) == [name for name in signature.parameters if name != "self"]
    assert {"Returns", "Yields"} & told.keys() or signature.return_annotation is None


@pytest.mark.parametrize("kind", CLASSES.values(), ids=CLASSES)
def test_every_field_and_property_is_told(kind: type) -> None:
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(body, ast.ClassDef)
    fields = [
        (one.target, after) for one, after in pairwise([*body.body, ast.Pass()]) if isinstance(one, ast.AnnAssign)
    ]
    assert [ast.unparse(field) for field, after in fields if not _is_text(after)] == []
    own = {name: value for name, value in vars(kind).items() if not name.startswith("_")}
    assert [name for name, value in own.items() if hasattr(value, "__get__") and not inspect.getdoc(value)] == []
    if inspect.isfunction(written := vars(kind).get("__init__")) and "__dataclass_fields__" not in vars(kind):
        assert ["self", *sections(kind)["Parameters"]] == list(inspect.signature(written).parameters)


def _is_text(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
