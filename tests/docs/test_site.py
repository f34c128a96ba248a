"""The site of the docs: it builds without a warning, holds every setting, and loads nothing from elsewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from thaw.recipe import Arm, Data, Train, built_in_recipes

ROOT = Path(__file__).parents[2]
EXTERNAL = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*?(?:src|href)=\"?(?:https?:)?//[^\s\">]+")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_setting_and_recipe_is_on_the_page(site: Path) -> None:
    page = (site / "recipes.html").read_text(encoding="utf-8")
    for key in (*Data.model_fields, *Train.model_fields, *Arm.model_fields):
        assert f"<code>{key}</code>" in page
    assert "A column whose values never straddle two splits" in page
    assert "default <code>512</code>" in page
    for name in built_in_recipes():
        assert f'id="{name}"' in page


def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    for page in site.glob("*.html"):
        assert not EXTERNAL.findall(page.read_text(encoding="utf-8"))
    for style in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(?:https?:)?//", style.read_text(encoding="utf-8"))
