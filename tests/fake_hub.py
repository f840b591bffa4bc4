"""A small model hub on loopback that answers what huggingface_hub asks: information, tree, files, redirects, refusals."""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import huggingface_hub.constants
import pytest

TOKEN = "hf_CanaryCanaryCanary"
LARGE = (".safetensors", ".bin")
"""Files that another host holds, as large ones are held."""


@dataclass
class Repo:
    """A model on the hub.

    Attributes:
        commits: The files of each commit, by its hash; the last one is main.
        needs: "" is public, "private" hides it from strangers, "gated" shows its files to those with the token.
        wait_s: How long a large file lets wait.
    """

    commits: dict[str, dict[str, bytes]]
    needs: str = ""
    wait_s: float = 0.0


@dataclass
class FakeHub:
    """The hub and the host of its large files.

    Attributes:
        repos: By name.
        asked: (method, path, range, whether a token came) of every request to the hub.
        fetched: The same of requests to the host of large files.
    """

    repos: dict[str, Repo] = field(default_factory=dict)
    asked: list[tuple[str, str, str, bool]] = field(default_factory=list)
    fetched: list[tuple[str, str, str, bool]] = field(default_factory=list)
    address: str = ""
    other_address: str = ""
    is_down: bool = False

    def add(self, name: str, folder: Path, **settings: Any) -> str:
        """Put a folder on the hub as the newest commit of a model; return its hash."""
        files = {
            str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()
        }
        commit = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        repo = self.repos.setdefault(name, Repo({}, **settings))
        repo.commits[commit] = files
        return commit

    def count_whole(self, ending: str) -> int:
        """How often a whole large file was fetched."""
        return sum(m == "GET" and p.endswith(ending) and not r for m, p, r, _ in self.fetched)


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    is_hub = True
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _send(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        headers.setdefault("Content_Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def _answer(self) -> None:
        path, wanted = unquote(urlsplit(self.path).path), self.headers.get("Range", "")
        token = self.headers.get("Authorization", "")
        log = self.hub.asked if self.is_hub else self.hub.fetched
        log.append((self.command, path, wanted, bool(token)))
        if self.hub.is_down:
            self._send(503)
        elif not self.is_hub:
            self._send_large(path, wanted)
        elif match := re.fullmatch(r"/api/models/(.+?)(?:/(revision|tree)/([^/]+))?", path):
            self._send_information(match[1], match[2], match[3], token)
        elif match := re.fullmatch(r"/(.+?)/resolve/([^/]+)/(.+)", path):
            self._send_file(match[1], match[2], match[3], wanted, token)
        else:
            self._send(404)

    def _find(
        self, name: str, revision: str | None, token: str, *, files: bool
    ) -> tuple[str, dict[str, bytes]] | None:
        repo = self.hub.repos.get(name)
        known = token == f"Bearer {TOKEN}"
        if repo is None or (repo.needs == "private" and not known):
            # The hub does not tell a private model from none.
            self._send(
                404 if token else 401, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found"
            )
        elif repo.needs == "gated" and files and not known:
            self._send(
                403 if token else 401,
                X_Error_Code="GatedRepo",
                X_Error_Message="Access to model is restricted",
            )
        else:
            commit = list(repo.commits)[-1] if revision in (None, "main") else str(revision)
            if commit in repo.commits:
                return commit, repo.commits[commit]
            self._send(404, X_Error_Code="RevisionNotFound", X_Error_Message="Invalid rev id")
        return None

    def _send_information(self, name: str, what: str | None, revision: str | None, token: str) -> None:
        found = self._find(name, revision, token, files=False)
        if found is None:
            return
        commit, files = found
        if what == "tree":
            listed: Any = [_describe(path, content) for path, content in files.items()]
        else:
            needs = self.hub.repos[name].needs
            listed = {
                "id": name, "modelId": name, "sha": commit, "private": needs == "private", "tags": [],
                "gated": "manual" if needs == "gated" else False, "downloads": 0, "likes": 0,
                "siblings": [{"rfilename": path, "size": len(content)} for path, content in files.items()],
            }  # fmt: skip
        self._send(200, json.dumps(listed).encode(), Content_Type="application/json")

    def _send_file(self, name: str, revision: str, file: str, wanted: str, token: str) -> None:
        found = self._find(name, revision, token, files=True)
        if found is None:
            return
        commit, files = found
        if file not in files:
            self._send(404, X_Error_Code="EntryNotFound", X_Error_Message="Entry not found")
            return
        content, described = files[file], _describe(file, files[file])
        headers = {"X_Repo_Commit": commit, "ETag": f'"{described["oid"]}"', "Accept_Ranges": "bytes"}
        if file.endswith(LARGE):
            place = f"{self.hub.other_address}/{name}/{commit}/{file}"
            linked = {"X_Linked_Etag": f'"{described["lfs"]["oid"]}"', "X_Linked_Size": str(len(content))}
            self._send(302, Location=place, **headers, **linked)
        elif self.command == "HEAD":
            self._send(200, Content_Length=str(len(content)), **headers)
        else:
            self._send(200, content, **headers)

    def _send_large(self, path: str, wanted: str) -> None:
        place = re.fullmatch(r"/(.+?)/([0-9a-f]{40})/(.+)", path)
        assert place is not None, path
        repo = self.hub.repos[place[1]]
        content = repo.commits[place[2]][place[3]]
        time.sleep(repo.wait_s)
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", wanted):
            begin, end = int(match[1]), min(int(match[2] or len(content)), len(content) - 1)
            part = content[begin : end + 1]
            self._send(206, part, Content_Range=f"bytes {begin}-{end}/{len(content)}", ETag=etag)
        elif self.command == "HEAD":
            self._send(200, Content_Length=str(len(content)), ETag=etag)
        else:
            self._send(200, content, ETag=etag)


def _describe(path: str, content: bytes) -> dict[str, Any]:
    blob = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
    found: dict[str, Any] = {"type": "file", "oid": blob, "size": len(content), "path": path}
    if path.endswith(LARGE):
        oid = hashlib.sha256(content).hexdigest()
        found["lfs"] = {"oid": oid, "size": len(content), "pointerSize": 130}
    return found


@contextmanager
def serve_hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """Serve a hub while the body runs, and let huggingface_hub ask it alone, with an empty cache and no token."""
    hub = FakeHub()
    servers = []
    for is_hub in (True, False):
        handler = type("Handler", (_Handler,), {"hub": hub, "is_hub": is_hub})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
    hub.address = f"http://127.0.0.1:{servers[0].server_port}"
    # Another host by its name, so that a token that is sent there would be sent to a stranger.
    hub.other_address = f"http://localhost:{servers[1].server_port}"
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "no-token"))
    for name in (
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        *(n for n in os.environ if n.lower().endswith("_proxy")),
    ):
        monkeypatch.delenv(name, raising=False)
    try:
        yield hub
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
