"""The site of the docs: it builds without a warning, holds every setting, and loads nothing from elsewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from thaw.recipe import Arm, Data, Train, built_in_recipes
from thaw.record import Record
from thaw.run.metrics import Metrics
from thaw.run.networks import Networks

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


def test_every_key_of_metrics_json_and_networks_json_is_on_the_page(site: Path) -> None:
    page = (site / "metrics.html").read_text(encoding="utf-8")
    records: list[type[BaseModel]] = [Metrics, Networks]
    seen = 0
    for record in records:
        assert f'id="{record.__name__.lower()}"' in page
        for key, field in record.model_fields.items():
            assert field.description, f"{record.__name__}.{key} has no text"
            assert f"<code>{key}</code>" in page
            seen += 1
            told = [field.annotation]
            for kind in told:
                told += get_args(kind)
                if isinstance(kind, type) and issubclass(kind, Record) and kind not in records:
                    records.append(kind)
    assert seen > 150


def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        assert not EXTERNAL.findall(page.read_text(encoding="utf-8"))
    for style in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(?:https?:)?//", style.read_text(encoding="utf-8"))
