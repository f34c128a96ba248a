"""The file tree in the README lists every file and package of thaw, with the first line of each."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "thaw"
PATH = re.compile(r"(?:src|tests|docs|benchmarks|tools)/[\w./-]+\.\w+")


def first_line(path: Path) -> str:
    """The first line of the docstring of a module or package, as the tree has it."""
    module = ast.parse((path / "__init__.py" if path.is_dir() else path).read_text(encoding="utf-8"))
    return (ast.get_docstring(module) or "").splitlines()[0].removesuffix(".")


def test_the_tree_has_the_first_line_of_every_file() -> None:
    tree = (ROOT / "README.md").read_text(encoding="utf-8").split("\nsrc/thaw/\n")[1].split("\ntests/")[0]
    listed = dict(line.split(maxsplit=1) for line in tree.splitlines())
    folders = {f"{path.parent.relative_to(SOURCE)}/": path.parent for path in SOURCE.rglob("*/__init__.py")}
    files = {path.name: path for path in SOURCE.glob("*.py") if not path.name.startswith("__")}
    there = {name: first_line(path) for name, path in (files | folders).items() if name != "./"}
    assert {name: line.removesuffix(".") for name, line in listed.items()} == there


def test_files_that_pages_name_exist() -> None:
    pages = [ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *(ROOT / "docs").glob("*.md")]
    named = {(page.name, path) for page in pages for path in PATH.findall(page.read_text(encoding="utf-8"))}
    assert [(page, path) for page, path in named if not (ROOT / path).exists()] == []
