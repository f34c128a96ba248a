"""Headless Chromium drives the page: an upload, the camera, the heat map, and the curves of a study that goes on."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from helpers.accessibility import broken_rules

pytestmark = pytest.mark.browser
expect.set_options(timeout=30_000)
CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")


@pytest.fixture(scope="module")
def going(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose study has not finished: two arms are trained."""
    run = tmp_path_factory.mktemp("going") / "run"
    shutil.copytree(small_run, run)
    for name in ("metrics.json", "report.html", "progress.json"):
        (run / name).unlink()
    shutil.rmtree(run / "models" / "head")
    return run


@pytest.fixture(scope="module")
def address(going: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the run is served, on a free port; ended as Ctrl-C ends it."""
    environment = os.environ | {"THAW_CACHE": str(tmp_path_factory.mktemp("served-cache"))}
    command = [sys.executable, "-m", "thaw", "serve", str(going), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as served:
        try:
            assert served.stdout is not None
            line = served.stdout.readline()
            found = re.search(r"http://\S+", line)
            assert found, line
            yield found[0]
        finally:
            served.send_signal(signal.SIGINT)
            assert served.wait(timeout=30) == 130


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu", *CAMERA]
        )
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """The page, which must ask nobody else, break no rule of its policy and log no error of its script."""
    context = browser.new_context(permissions=["camera"])
    page = context.new_page()
    asked: list[str] = []
    wrong: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if "Content Security" in message.text else None)
    yield page
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []
    assert wrong == []
    context.close()


def tell(run: Path, small_run: Path, epochs: int, **changed: Any) -> None:
    """Write the progress of a study of which `epochs` epochs of the arm `everything` are done."""
    told = json.loads((small_run / "progress.json").read_text())
    told |= {"state": "running", "updated": time.time(), "arm": "everything", "stage": "training", "unit": "steps"}
    told |= {"done": epochs, "total": 3, "stage_left": 3.0 - epochs, "study_left": 65.0, **changed}
    told["trials"] = {"done": 1, "total": 3}
    rows = told["arms"]["everything"][0]
    told["arms"] = {
        "head": [],
        "last-stage": told["arms"]["last-stage"],
        "everything": [rows | {"epochs": rows["epochs"][:epochs], "seconds": None}],
    }
    part = run / "progress.part"
    part.write_text(json.dumps(told))
    part.replace(run / "progress.json")


def test_the_curves_of_a_running_study_grow(page: Page, address: str, going: Path, small_run: Path) -> None:
    tell(going, small_run, epochs=1)
    page.goto(address)
    expect(page.locator("#stage")).to_have_text("training · arm everything, seed 0")
    expect(page.locator("#left")).to_contain_text("1 of 3 trials done · about 1 min 5 s left in the study")
    expect(page.locator("#loss circle.arm-2")).to_have_count(1)
    expect(page.locator("#search circle.arm-1")).to_have_count(2)
    tell(going, small_run, epochs=3)
    expect(page.locator("#loss circle.arm-2")).to_have_count(3)
    expect(page.locator("#accuracy polyline")).to_have_count(2)
    expect(page.locator("#bar")).to_have_attribute("value", "3")
    assert broken_rules(page) == []
    tell(going, small_run, epochs=3, state="stopped", why="the disk is full; make room.")
    expect(page.locator("#stage")).to_have_text("Stopped: the disk is full; make room.")
    for name in ("metrics.json", "report.html", "progress.json"):
        shutil.copy(small_run / name, going)
    expect(page.locator("#stage")).to_contain_text("Use ")
    page.get_by_role("link", name="Open the report").click()
    expect(page.locator("h1.verdict")).to_contain_text("test images")


def test_a_picture_is_looked_at(page: Page, address: str, small_run: Path, photographs: Path, tmp_path: Path) -> None:
    page.emulate_media(color_scheme="dark")
    page.goto(address)
    page.get_by_label("Arm").select_option("everything")
    picture = photographs / "left" / "000.png"
    told = page.request.post(f"{address}api/predict?arm=everything", data=picture.read_bytes()).json()
    page.set_input_files("#file", picture)
    answer = page.locator("article").first
    expect(answer.locator(".verdict strong")).to_have_text(told["predicted"])
    expect(answer.locator(".verdict span")).to_have_text(f"{told['probabilities'][0]['probability']:.1%}")
    heat = answer.locator("img.heat")
    expect(heat).to_be_visible()
    assert heat.evaluate("image => image.complete && image.naturalWidth") == 14
    assert broken_rules(page) == []
    answer.get_by_role("button", name="Hide the heat map").click()
    expect(heat).to_be_hidden()
    (tmp_path / "no-picture.jpg").write_bytes(b"hello")
    page.set_input_files("#file", tmp_path / "no-picture.jpg")
    expect(page.locator("#status")).to_contain_text("no-picture.jpg: this is not an image in a format that can be read")
    expect(page.locator("article")).to_have_count(1)


def test_the_camera_takes_a_picture(page: Page, address: str) -> None:
    page.goto(address)
    page.get_by_role("button", name="Use the camera").click()
    expect(page.locator("video")).to_be_visible()
    page.get_by_role("button", name="Take a photo").click()
    expect(page.locator("article .told")).to_contain_text("The photo, by ")
    page.get_by_role("button", name="Close").click()
    expect(page.locator("video")).to_be_hidden()
