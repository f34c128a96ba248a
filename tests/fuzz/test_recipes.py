"""The recipe reader on whatever text: a recipe, or a RecipeError, and nothing else."""

from pathlib import Path
from typing import Any

import pytest
import tomlkit
from hypothesis import example, given
from hypothesis import strategies as st

from helpers.guard import confined, fuzzed
from thaw.recipe import Recipe, built_in_recipes, load_recipe, recipe_text, to_toml, validate

KEYS = sorted(
    {"name", *Recipe.model_fields, "source", "weights", "train", "backbone", "label", "seeds", "head", "size"}
)
PATHS = [
    "../../etc/passwd",
    "~nobody-here/x",
    "~",
    "\0",
    "a" * 5000,
    "hf:",
    "thaw:../x",
    "x.safetensors",
    "\0.safetensors",
]
HOSTILE = st.sampled_from([*PATHS, "all", "head", "nan", "random"])
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | HOSTILE
    | st.binary(max_size=3).map(repr)
)
VALUES = st.recursive(
    SCALARS.filter(lambda value: value is not None),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
TABLES = st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=8), VALUES, max_size=6)


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """A built-in recipe with pieces cut out, doubled or overwritten."""
    text = recipe_text(draw(st.sampled_from(built_in_recipes())))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(len(text), start + 30)))
        text = text[:start] + draw(st.text(max_size=6) | HOSTILE | st.just(text[start:end] * 2)) + text[end:]
    return text


def read(folder: Path, content: bytes, settings: tuple[str, ...] = ()) -> None:
    path = folder / "fuzz.toml"
    path.write_bytes(content)
    with confined(folder):
        recipe = load_recipe(str(path), None, settings)
        again = folder / "again.toml"
        again.write_text(to_toml(recipe), encoding="utf-8")
        assert load_recipe(str(again)) == recipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recipes")


@fuzzed
@given(st.binary(max_size=300))
@example(b"a = " + b"[" * 100_000)
@example(b"a = " + b"9" * 5000)
@example(b"[" + b"a." * 5000 + b"a]")
@example(b"a = " + b"{a=" * 5000)
def test_any_bytes(folder: Path, content: bytes) -> None:
    read(folder, content)


@fuzzed
@given(mutated())
def test_a_recipe_with_slips(folder: Path, text: str) -> None:
    read(folder, text.encode("utf-8", "surrogatepass"))


@fuzzed
@given(TABLES)
def test_any_tables(folder: Path, values: dict[str, Any]) -> None:
    with confined(folder):
        validate(values, "recipe", Recipe)
    try:
        text = tomlkit.dumps(values)
    except Exception:
        return
    read(folder, text.encode("utf-8", "surrogatepass"))


@fuzzed
@given(
    st.lists(
        st.text(max_size=30)
        | st.tuples(st.sampled_from(KEYS), st.sampled_from(KEYS), HOSTILE | st.text(max_size=9)).map(
            lambda parts: "{}.{}={}".format(*parts)
        ),
        max_size=3,
    )
)
@example(["a." * 3000 + "a=1"])
@example(["data.source=\udcff"])
@example(["data.source='''\n\x1b[2J'''"])
def test_any_settings(folder: Path, settings: list[str]) -> None:
    read(folder, recipe_text("emoji-people").encode(), tuple(settings))
