"""The page and the JSON endpoints."""

import asyncio
import time
from importlib import resources
from importlib.metadata import version
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

from thaw.bundle.load import read_config
from thaw.errors import ThawError
from thaw.images.files import readable_formats
from thaw.serve.answer import MAX_PIXELS
from thaw.serve.desk import Desk
from thaw.serve.guard import REPORT_POLICY, guard
from thaw.serve.watch import state_of

MAX_BYTES = 20 << 20
"""Larger uploads are refused while they come in."""
UPLOAD_SECONDS = 30.0
"""An upload that takes longer is given up."""
FILES = {
    "page.js": ("serve", "text/javascript"),
    "page.css": ("serve", "text/css"),
    "theme.css": ("report", "text/css"),
}
"""The package that each file of the page lies in, and its type."""


class About(BaseModel):
    """The models that are served."""

    thaw: str
    arms: list[str]
    """The arms that can be asked, the recommended one first."""
    backbone: str | None
    classes: list[str]
    run: bool
    """True where the models are those of a run."""
    max_bytes: int
    max_pixels: int
    formats: list[str]


class Probability(BaseModel):
    """A class and its probability."""

    name: str
    probability: float


class Similar(BaseModel):
    """A training image, as the network sees it."""

    id: str
    label: str
    similarity: float
    """The cosine between the features of both images, from the pretrained backbone."""
    image: str
    """A data URI."""


class Threshold(BaseModel):
    """From which probability on a class is decided for."""

    positive: str
    probability: float


class Prediction(BaseModel):
    """A model's answer for one image."""

    arm: str
    predicted: str
    probabilities: list[Probability]
    """Of all classes, the most probable first."""
    calibrated: bool
    """True where a temperature, fitted on validation images, scales the probabilities."""
    set: list[str] | None
    """The classes that the image may be, none where no class is probable enough; null where the bundle has no sets."""
    coverage: float | None
    """The fraction of images whose set holds their class; null without sets."""
    decided: str | None
    """The class decided for by the threshold; null where the bundle has none."""
    threshold: Threshold | None
    """That threshold."""
    unlike: float | None
    """Above 1, the image is unlike those of training; null where the bundle cannot tell."""
    seen: str
    """The image as the network sees it, a data URI."""
    heat: str | None
    """A heat map to lay over `seen`, a data URI: the hotter a place, the more it speaks for the predicted class."""
    heat_why: str
    """Why there is no heat map, else empty."""
    similar: list[Similar]
    similar_why: str
    """Why there are no similar training images, else empty."""
    seconds: float


class TrialState(BaseModel):
    """One seed of an arm, as far as it is."""

    seed: int
    search: list[dict[str, float | str | None]]
    epochs: list[dict[str, float | str | None]]
    seconds: float | None


class ArmState(BaseModel):
    """An arm of a run; its accuracy is on the test set, once the study is finished."""

    trials: list[TrialState]
    accuracy: float | None


class RunState(BaseModel):
    """How far a study is; what is not known is null."""

    state: str
    """`waiting`, `running`, `silent` (running, but not heard of for a minute), `stopped` or `finished`."""
    recipe: str | None
    arm: str | None
    seed: int | None
    stage: str | None
    unit: str | None
    done: int | None
    total: int | None
    trials: dict[str, int] | None
    """How many arms, times seeds, are done, and of how many."""
    seconds: float | None
    stage_left: float | None
    study_left: float | None
    heard: float | None
    """Seconds since the study was last heard of."""
    why: str | None
    report: bool
    recommended: str | None
    arms: dict[str, ArmState]


class Refusal(BaseModel):
    """One sentence on what is wrong and what to do."""

    detail: str


REFUSALS: dict[int | str, dict[str, Any]] = {code: {"model": Refusal} for code in (403, 404, 408, 413, 422)}


def make_app(desk: Desk, names: list[str]) -> ASGIApp:
    """The application that serves a desk, to requests whose Host is one of `names` or an address."""
    app = FastAPI(
        title="thaw serve", version=version("thaw-vision"), docs_url=None, redoc_url=None, description=__doc__ or ""
    )

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    def index() -> str:
        return (resources.files("thaw.serve") / "page.html").read_text(encoding="utf-8")

    @app.get("/{name}", include_in_schema=False)
    def file(name: str) -> Response:
        if name == "report.html" and desk.run is not None and (desk.run / name).is_file():
            return FileResponse(desk.run / name, headers={"content-security-policy": REPORT_POLICY})
        if name not in FILES:
            raise HTTPException(404, f"there is no /{name[:40]} here; open the address that thaw serve printed.")
        package, kind = FILES[name]
        return Response((resources.files(f"thaw.{package}") / name).read_text(encoding="utf-8"), media_type=kind)

    @app.get("/api/about")
    def about() -> About:
        """Which models can be asked, about which classes."""
        desk.prepare_training()
        arms = desk.arms()
        config = read_config(desk.folder(arms[0])) if arms else {}
        return About(
            thaw=version("thaw-vision"),
            arms=arms,
            backbone=config.get("backbone"),
            classes=config.get("classes", []),
            run=desk.run is not None,
            max_bytes=MAX_BYTES,
            max_pixels=MAX_PIXELS,
            formats=readable_formats(),
        )

    @app.get("/api/run", responses=REFUSALS)
    def run() -> RunState:
        """How far the study is, and each arm's search and epochs so far."""
        if desk.run is None:
            raise HTTPException(404, "a bundle is served, not a run; give thaw serve the run folder.")
        return RunState.model_validate(state_of(desk.run))

    @app.post(
        "/api/predict",
        responses=REFUSALS,
        openapi_extra={
            "requestBody": {
                "required": True,
                "description": "The encoded image itself, not a form.",
                "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}},
            }
        },
    )
    async def predict(
        request: Request,
        arm: Annotated[
            str | None, Query(description="The arm to ask; the recommended one where it is left out.")
        ] = None,
    ) -> Prediction:
        """Class, probabilities, heat map and similar training images for the image in the body."""
        begun = time.perf_counter()
        content = await _body(request)
        answer = await run_in_threadpool(desk.answer, content, arm)
        return Prediction(**answer, seconds=time.perf_counter() - begun)

    @app.exception_handler(ThawError)
    def refuse(_: Request, error: ThawError) -> Response:
        return JSONResponse({"detail": str(error)}, 422)

    return guard(app, names)


async def _body(request: Request) -> bytes:
    """The body of a request, up to MAX_BYTES of it."""
    too_large = HTTPException(413, f"the upload is larger than {MAX_BYTES >> 20} MiB; send a smaller image.")
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > MAX_BYTES:
        raise too_large
    content = bytearray()
    try:
        async with asyncio.timeout(UPLOAD_SECONDS):
            async for chunk in request.stream():
                content += chunk
                if len(content) > MAX_BYTES:
                    raise too_large
    except TimeoutError as error:
        raise HTTPException(408, f"the upload took longer than {UPLOAD_SECONDS:.0f} seconds; send it again.") from error
    except ClientDisconnect as error:
        raise HTTPException(400, "the upload broke off; send it again.") from error
    if not content:
        raise HTTPException(422, "the request holds no image; send the encoded image as its body.")
    return bytes(content)
