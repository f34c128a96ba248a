"""The endpoints of thaw serve: right answers, and what bad uploads and strange askers get."""

import asyncio
import base64
import contextlib
import http.client
import io
import json
import random
import shutil
import socket
import struct
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from helpers.cli import thaw
from helpers.images import encoded_image
from helpers.small_bundle import small_bundle
from thaw.errors import StorageError
from thaw.images.files import readable_formats
from thaw.serve import app
from thaw.serve.app import make_app
from thaw.serve.desk import Desk
from thaw.serve.server import CONNECTIONS, bind, make_server


def client(path: Path) -> TestClient:
    return TestClient(make_app(Desk(path), ["localhost"]), "http://localhost", raise_server_exceptions=False)


def shown(uri: str) -> np.ndarray[Any, Any]:
    """The pixels of a data URI."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


def test_probabilities_are_those_that_the_study_noted(small_run: Path, photographs: Path) -> None:
    rows = pq.read_table(small_run / "predictions.parquet").to_pylist()
    for arm in ("head", "everything"):
        asked = client(small_run / "models" / arm)
        temperature = json.loads((small_run / "models" / arm / "config.json").read_text()).get("temperature")
        for row in [row for row in rows if row["arm"] == arm][:4]:
            told = asked.post("/api/predict", content=(photographs / row["id"]).read_bytes()).json()
            assert told["arm"] == arm
            assert told["predicted"] == row["predicted"]
            assert told["calibrated"] == (temperature is not None)
            noted = np.array([row["p_left"], row["p_right"]]) ** (1 / (temperature or 1))
            expected = dict(zip(("left", "right"), noted / noted.sum(), strict=True))
            assert {one["name"]: one["probability"] for one in told["probabilities"]} == pytest.approx(
                expected, abs=1e-4
            )
            assert told["probabilities"][0]["name"] == row["predicted"]
            assert shown(told["seen"]).shape == (32, 32, 3)


def test_there_is_a_heat_map_to_lay_over_the_picture(small_run: Path) -> None:
    told = client(small_run / "models" / "everything").post("/api/predict", content=encoded_image(1)).json()
    heat = shown(told["heat"])
    assert heat.shape == (14, 14, 4)
    assert heat[..., 3].max() > 0
    assert told["heat_why"] == ""


def test_a_run_answers_with_its_recommended_arm_and_similar_training_images(small_run: Path, photographs: Path) -> None:
    asked = client(small_run)
    about = asked.get("/api/about").json()
    assert about["arms"][0] == json.loads((small_run / "metrics.json").read_text())["recommended"]
    assert (about["classes"], about["run"]) == (["left", "right"], True)
    tested = {row["id"] for row in pq.read_table(small_run / "predictions.parquet").to_pylist()}
    trained = next(
        path for path in sorted(photographs.rglob("*.png")) if str(path.relative_to(photographs)) not in tested
    )
    patience = time.monotonic() + 60
    while True:
        told = asked.post("/api/predict?arm=everything", content=trained.read_bytes()).json()
        if told["similar"] or time.monotonic() > patience:
            break
        assert "still being read" in told["similar_why"]
    assert told["arm"] == "everything"
    assert told["similar"][0]["id"] == str(trained.relative_to(photographs))
    assert told["similar"][0]["label"] == trained.parent.name
    assert told["similar"][0]["similarity"] == pytest.approx(1, abs=1e-4)
    assert len(told["similar"]) == 6
    assert not {one["id"] for one in told["similar"]} & tested
    similarities = [one["similarity"] for one in told["similar"]]
    assert similarities == sorted(similarities, reverse=True)
    assert asked.post("/api/predict?arm=none", content=encoded_image(1)).status_code == 422


def test_a_bundle_alone_says_what_it_lacks(small_run: Path) -> None:
    asked = client(small_run / "models" / "head")
    assert asked.get("/api/about").json()["arms"] == ["head"]
    assert asked.get("/api/run").status_code == 404
    assert asked.get("/report.html").status_code == 404
    told = asked.post("/api/predict", content=encoded_image(1)).json()
    assert told["similar"] == []
    assert "serve its run" in told["similar_why"]


def test_a_run_of_another_format_is_refused_before_it_is_served(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").touch()
    (tmp_path / "metrics.json").write_text('{"format": 2}')
    with pytest.raises(StorageError, match=r"has format 2, and this version of thaw reads format 1; run the study"):
        Desk(tmp_path)


def test_a_run_is_shown_finished_running_silent_and_stopped(small_run: Path, tmp_path: Path) -> None:
    asked = client(small_run)
    told = asked.get("/api/run").json()
    metrics = json.loads((small_run / "metrics.json").read_text())
    assert (told["state"], told["report"], told["recommended"]) == ("finished", True, metrics["recommended"])
    assert told["arms"]["head"]["accuracy"] == metrics["arms"]["head"]["test"]["accuracy"]
    assert told["arms"]["head"]["trials"][0]["epochs"] == metrics["arms"]["head"]["epochs"]
    report = asked.get("/report.html")
    assert "sandbox" in report.headers["content-security-policy"]
    assert report.text == (small_run / "report.html").read_text()

    going = tmp_path / "going"
    going.mkdir()
    shutil.copy(small_run / "recipe.toml", going)
    asked = client(going)
    assert asked.get("/api/run").json()["state"] == "waiting"
    refused = asked.post("/api/predict", content=encoded_image(1))
    assert (refused.status_code, refused.json()["detail"][:36]) == (422, "no arm of this study is trained yet;")
    progress = json.loads((small_run / "progress.json").read_text()) | {"state": "running", "updated": time.time()}
    (going / "progress.json").write_text(json.dumps(progress))
    assert asked.get("/api/run").json()["state"] == "running"
    (going / "progress.json").write_text(json.dumps(progress | {"updated": time.time() - 600}))
    assert asked.get("/api/run").json()["state"] == "silent"
    (going / "progress.json").write_text(json.dumps(progress | {"state": "stopped", "why": "KeyboardInterrupt"}))
    assert asked.get("/api/run").json()["why"] == "KeyboardInterrupt"
    shutil.copy(small_run / "metrics.json", going)  # finished, and then begun and stopped anew
    assert asked.get("/api/run").json()["recommended"] == metrics["recommended"]
    assert asked.get("/api/run").json()["arms"] == told["arms"]
    (going / "metrics.json").unlink()
    (going / "progress.json").write_text("[half a fi")
    assert asked.get("/api/run").json()["state"] == "waiting"


def test_only_this_machine_under_its_own_name_may_ask(small_run: Path) -> None:
    asked = client(small_run)
    for host in ("localhost", "LOCALHOST:8765", "127.0.0.1:8765", "[::1]:8765", "192.168.1.7"):
        assert asked.get("/", headers={"host": host}).status_code == 200, host
    for host in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "", "[::1", "a b"):
        assert asked.get("/", headers={"host": host}).status_code == 403, host
    for origin in ("http://evil.example", "null", "http://localhost:1", "http://["):
        assert asked.get("/api/about", headers={"origin": origin}).status_code == 403, origin
    assert asked.get("/api/about", headers={"origin": "http://localhost"}).status_code == 200


def test_every_answer_is_safe_in_a_browser_and_loads_nothing_from_elsewhere(small_run: Path) -> None:
    asked = client(small_run)
    files = ("/", "/page.js", "/page.css", "/theme.css")
    for path in (*files, "/api/about", "/api/run", "/nowhere", "/../recipe.toml", "/report.html"):
        headers = asked.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in headers
    for path in files:
        assert "//" not in asked.get(path).text.replace("http://www.w3.org/2000/svg", "").replace("// ", "")
    assert asked.get("/docs").status_code == 404
    assert asked.get("/recipe.toml").status_code == 404
    assert asked.get("/%2e%2e%2frecipe.toml").status_code == 404


def test_the_endpoint_is_described(small_run: Path) -> None:
    described = client(small_run).get("/openapi.json").json()
    assert set(described["paths"]) == {"/api/about", "/api/run", "/api/predict"}
    assert described["paths"]["/api/predict"]["post"]["requestBody"]["content"] == {
        "image/*": {"schema": {"type": "string", "format": "binary"}}
    }


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it has so many pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


def test_uploads_have_limits(small_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = client(small_run / "models" / "head")
    monkeypatch.setattr(app, "MAX_BYTES", 100_000)
    assert asked.post("/api/predict", content=b"x" * 100_001).status_code == 413
    pieces = (b"x" * 50_000 for _ in range(10))
    assert asked.post("/api/predict", content=pieces).status_code == 413
    assert asked.post("/api/predict", content=b"", headers={"content-length": "-1"}).status_code == 413
    assert asked.post("/api/predict", content=b"").status_code == 422
    for side, said in ((8_000, "8,000 x 8,000 pixels"), (60_000, "too many pixels")):
        refused = asked.post("/api/predict", content=bomb(side, side))
        assert refused.status_code == 422
        assert said in refused.json()["detail"]
    assert asked.post("/api/predict", content=b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n").status_code == 422
    assert asked.post("/api/predict", content=encoded_image(1)).status_code == 200


def test_an_upload_that_is_slow_or_breaks_off_is_given_up(small_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = make_app(Desk(small_run / "models" / "head"), ["localhost"])
    headers = [(b"host", b"localhost"), (b"content-length", b"100")]
    scope = {"type": "http", "method": "POST", "path": "/api/predict", "headers": headers, "query_string": b""}
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def gone() -> dict[str, str]:
        return {"type": "http.disconnect"}

    async def never() -> dict[str, str]:
        await asyncio.Event().wait()
        return {}

    monkeypatch.setattr(app, "UPLOAD_SECONDS", 0.0)
    for receive, code in ((gone, 400), (never, 408)):
        sent.clear()
        asyncio.run(asked(scope, receive, send))  # type: ignore[arg-type]
        assert sent[0]["status"] == code


@contextlib.contextmanager
def served(path: Path) -> Iterator[int]:
    """Serve a bundle in a thread, on a free port of this machine."""
    bound = bind("127.0.0.1", 0)
    server = make_server(make_app(Desk(path), ["localhost"]))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    try:
        yield bound.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(30)
        bound.close()
        assert not thread.is_alive()


@pytest.mark.parametrize(
    "begun",
    [
        b"",
        b"POST /api/predict HTTP/1.1\r\nHost: localhost\r\n",
        b"POST /api/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nhalf",
    ],
)
def test_requests_that_are_never_finished_keep_nobody_out(small_run: Path, begun: bytes) -> None:
    whole = encoded_image(1)
    with served(small_run / "models" / "head") as port, contextlib.ExitStack() as stack:
        for _ in range(3):
            for _ in range(CONNECTIONS + 8):
                held = stack.enter_context(socket.create_connection(("127.0.0.1", port), 10))
                with contextlib.suppress(ConnectionError):  # the server may have closed it
                    held.sendall(begun)
            asked = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            for method, target, body in (("GET", "/api/about", None), ("POST", "/api/predict", whole)):
                asked.request(method, target, body)
                answer = asked.getresponse()
                assert (answer.status, len(json.loads(answer.read())) > 3) == (200, True)
            asked.close()


def test_a_request_that_is_being_answered_makes_no_place(small_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its client is heard of longest ago, but all of it has come."""
    entered, leave = threading.Event(), threading.Event()
    real = Desk.answer

    def answer(*given: Any) -> Any:
        entered.set()
        assert leave.wait(20)
        return real(*given)

    monkeypatch.setattr(Desk, "answer", answer)
    with served(small_run / "models" / "head") as port, contextlib.ExitStack() as stack:
        asked = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        asked.request("POST", "/api/predict", encoded_image(1))
        assert entered.wait(20)
        for _ in range(CONNECTIONS + 8):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), 10))
        other = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        other.request("GET", "/api/about")  # answered after all of the above were taken in
        assert other.getresponse().status == 200
        other.close()
        leave.set()
        assert asked.getresponse().status == 200
        asked.close()


def test_every_format_of_a_study_is_taken(small_run: Path) -> None:
    asked = client(small_run / "models" / "head")
    assert asked.get("/api/about").json()["formats"] == readable_formats()
    for kind in ("TIFF", "PPM", "JPEG2000", "TGA"):
        assert asked.post("/api/predict", content=encoded_image(1, kind=kind)).status_code == 200, kind


@pytest.mark.slow
def test_500_bad_uploads_leave_it_serving(small_run: Path) -> None:
    """Truncated, mutated and made-up files in every format: one sentence each, or a class where they still decode."""
    asked = client(small_run / "models" / "head")
    chance = random.Random(0)
    whole = [encoded_image(1, kind=kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")]
    made_up = [b"GIF89a", b"\xff\xd8\xff", b"<svg/>", b"PK\x03\x04" * 99, b"\0" * 9999, bomb(1, 2**31 - 1), bomb(0, 0)]
    codes = []
    for index in range(500):
        content = bytearray(chance.choice(whole))
        if index % 4 == 0:
            content = bytearray(chance.choice(made_up) + chance.randbytes(chance.randrange(200)))
        elif index % 4 == 1:
            del content[chance.randrange(len(content)) :]
        for _ in range(0 if index % 4 == 0 else chance.randrange(1, 40)):
            if content:
                content[chance.randrange(len(content))] = chance.randrange(256)
        answer = asked.post("/api/predict", content=bytes(content))
        codes.append(answer.status_code)
        if answer.status_code != 200:
            assert answer.json()["detail"].count("\n") == 0
    assert set(codes) <= {200, 422}
    assert codes.count(422) > 250
    assert asked.post("/api/predict", content=encoded_image(2)).status_code == 200


@pytest.mark.parametrize("missing", ["fastapi", "uvicorn"])
def test_what_is_missing_is_named_with_the_command_that_brings_it(
    small_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], missing: str
) -> None:
    for name in [name for name in sys.modules if name.startswith("thaw.serve")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    assert thaw(monkeypatch, "serve", small_run) == 2
    assert "pip install 'thaw-vision[serve]'" in capsys.readouterr().err


def test_what_is_no_bundle_and_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="neither a bundle nor a run"):
        Desk(tmp_path)


def test_a_port_that_is_taken_is_named() -> None:
    with bind("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(StorageError, match=rf"port {port}, cannot be listened on: .*; give another --port"):
            bind("127.0.0.1", port)


def test_what_a_bundle_says_in_doubt_is_in_its_answer(tmp_path: Path) -> None:
    folder = small_bundle(tmp_path / "b")
    told = client(folder).post("/api/predict", content=encoded_image(1)).json()
    assert [told[name] for name in ("set", "coverage", "decided", "threshold", "unlike")] == [None] * 5
    decide = {"coverage": 0.9, "by_class": False, "floors": [2.0, 0.0], "positive": "right", "threshold": 1.5}
    folder = small_bundle(tmp_path / "doubtful", decide=decide)
    told = client(folder).post("/api/predict", content=encoded_image(1)).json()
    assert (told["set"], told["coverage"], told["decided"]) == (["right"], 0.9, "left")
    assert told["threshold"] == {"positive": "right", "probability": 1.5}
    assert told["unlike"] is None
