"""thaw push uploads a bundle's files, and no others, to a stand-in for the Hugging Face hub."""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from helpers.small_bundle import small_bundle
from thaw.bundle.push import push
from thaw.errors import BundleError


class Hub(ThreadingHTTPServer):
    """Takes what the hub's API takes for a new repository and a commit."""

    status = 200
    private = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.calls: list[str] = []
        self.created: dict[str, Any] = {}
        self.files: dict[str, bytes] = {}

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Answers(BaseHTTPRequestHandler):
    server: Hub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        self.server.calls.append(self.path)
        answer: dict[str, Any] = {}
        if self.path.endswith("/repos/create"):
            self.server.created = json.loads(body)
            answer = {"url": f"{self.server.address}/user/name", "name": "user/name"}
        elif "/preupload/" in self.path:
            wanted = [file["path"] for file in json.loads(body)["files"]]
            answer = {"files": [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in wanted]}
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            answer = {"commitUrl": f"{self.server.address}/user/name/commit/1", "commitOid": "1" * 40}
        self._send(answer)

    def do_GET(self) -> None:
        self.server.calls.append(self.path)
        self._send({"siblings": [], "sha": "1" * 40, "id": "user/name", "private": self.server.private})

    def _send(self, answer: dict[str, Any]) -> None:
        content = json.dumps(answer).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server = Hub()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.address)
    monkeypatch.setenv("HF_TOKEN", "hf_made_up")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def with_card(folder: Path) -> Path:
    small_bundle(folder)
    (folder / "README.md").write_text("---\nlibrary_name: thaw\n---\n# A model\n")
    return folder


def test_a_bundle_arrives_whole_and_alone(hub: Hub, tmp_path: Path) -> None:
    folder = with_card(tmp_path / "bundle")
    (folder / ".secret").write_text("stays here")
    (folder / "link").symlink_to(tmp_path)
    assert push(folder, "user/name", private=True) == f"{hub.address}/user/name"
    assert hub.created.get("visibility", hub.created.get("private")) in ("private", True)
    assert hub.files == {
        name: (folder / name).read_bytes() for name in ("README.md", "config.json", "model.safetensors")
    }


def test_a_snapshot_of_the_cache_arrives_too(hub: Hub, tmp_path: Path) -> None:
    blobs, folder = with_card(tmp_path / "blobs"), tmp_path / "snapshots" / ("0" * 40)
    folder.mkdir(parents=True)
    for file in blobs.iterdir():
        (folder / file.name).symlink_to(file)
    push(folder, "user/name", private=False)
    assert hub.files.keys() == {"README.md", "config.json", "model.safetensors"}


def test_nothing_goes_where_it_should_not(hub: Hub, tmp_path: Path) -> None:
    folder, hub.private = with_card(tmp_path / "bundle"), False
    with pytest.raises(BundleError, match="exists and is public"):
        push(folder, "user/name", private=True)
    (folder / "README.md").unlink()
    with pytest.raises(BundleError, match="no model card"):
        push(folder, "user/name", private=False)
    (folder / "model.safetensors").unlink()
    with pytest.raises(BundleError, match=r"holds no model.safetensors"):
        push(folder, "user/name", private=False)
    assert not hub.files


@pytest.mark.parametrize(("status", "said"), [(401, "token is not valid"), (403, "may not write"), (500, "500")])
def test_a_refusal_is_one_sentence(hub: Hub, tmp_path: Path, status: int, said: str) -> None:
    hub.status = status
    with pytest.raises(BundleError, match=said):
        push(with_card(tmp_path / "bundle"), "user/name", private=False)


def test_without_a_token_a_network_or_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = with_card(tmp_path / "bundle")
    monkeypatch.setattr("thaw.bundle.push.get_token", lambda: None)
    with pytest.raises(BundleError, match="nobody is logged in"):
        push(folder, "user/name", private=False)
    monkeypatch.setattr("thaw.bundle.push.get_token", lambda: "hf_made_up")
    with pytest.raises(BundleError, match="is not the name of a repository"):
        push(folder, "user/name/more", private=False)
    closed = Hub()
    closed.server_close()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", closed.address)
    with pytest.raises(BundleError, match="cannot be reached"):
        push(folder, "user/name", private=False)
    with pytest.raises(BundleError, match="holds no"):
        push(tmp_path, "user/name", private=False)
