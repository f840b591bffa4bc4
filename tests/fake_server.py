"""An OpenAI-compatible server over a model of transformers, which can also answer wrongly, slowly, too little or not."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch


class FakeServer:
    """Serves one model on loopback, in threads of this process.

    Args:
        model: A causal language model.
        tokenizer: Its own.
        ways: What it gives: prompt_logprobs, echo (of tokens), echo_text.
        most: Log-probabilities a token that it gives at most; more are refused, as vLLM refuses them.
        few: Log-probabilities that it gives where more are asked for, without a word; None gives all.

    Attributes:
        asked: Path and body of each request so far.
        headers: Of the last request.
        faults: What the next completions do instead of answering: a status, or a word (see `_fail`).
        name: Of the model.
        said: What the list of models says beside the name.
        stamp: Its `system_fingerprint`; "" gives none.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        ways: tuple[str, ...] = ("prompt_logprobs", "echo"),
        most: int = 1000,
        few: int | None = None,
    ) -> None:
        self.model, self.tokenizer, self.ways, self.most, self.few = model, tokenizer, ways, most, few
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.headers: Mapping[str, str] = {}
        self.faults: deque[int | str] = deque()
        self.name, self.stamp, self.shift, self.slow_s = "tiny", "", 0, 0.0
        self.said: dict[str, Any] = {"owned_by": "tests", "root": "models/tiny", "created": 0}
        self.url = ""
        self._lock = threading.Lock()

    @classmethod
    def of(cls, folder: Path) -> FakeServer:
        """Serve a saved model."""
        from transformers import AutoModelForCausalLM, AutoTokenizer

        return cls(AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder))

    @property
    def completions(self) -> int:
        """Requests for completions so far."""
        return sum(path == "/v1/completions" for path, _ in self.asked)

    def list_models(self) -> dict[str, Any]:
        self.said["created"] = time.time()  # as vLLM does: of no meaning
        return {"object": "list", "data": [{"id": self.name, "object": "model", **self.said}]}

    def complete(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Return the status and reply to a request for a completion."""
        wanted = body.get("prompt_logprobs") or body.get("logprobs") or 0
        if wanted > self.most:
            return 400, error(
                f"Requested logprobs of {wanted}, which is greater than max allowed: {self.most}"
            )
        if "prompt_logprobs" in body and "prompt_logprobs" not in self.ways:
            return 400, error("Unrecognized request argument supplied: prompt_logprobs")
        is_text = isinstance(body["prompt"], str)
        if body.get("echo") and ("echo_text" if is_text else "echo") not in self.ways:
            return 400, error("echo is not supported")
        if not is_text and self.ways == ("echo_text",):
            return 400, error("prompt must be a string")
        ids = self.tokenizer(body["prompt"])["input_ids"] if is_text else list(body["prompt"])
        if is_text and ids and ids[-1] == self.tokenizer.eos_token_id:
            ids = ids[:-1]
        choice: dict[str, Any] = {"index": 0, "finish_reason": "length"}
        new, logp_LV = self._continue(ids, body["max_tokens"])
        # As servers do, so that the first blank of the continuation stays.
        before, whole = (self.tokenizer.decode(own, skip_special_tokens=True) for own in (ids, [*ids, *new]))
        choice["text"] = whole[len(before) :]
        k = min(wanted, self.few or wanted)
        if "prompt_logprobs" in body:
            choice["prompt_logprobs"] = [None] + [
                self._name_by_id(logp_LV, ids, i, k) for i in range(1, len(ids))
            ]
        elif body.get("logprobs"):
            choice["logprobs"] = self._name_by_text(logp_LV, [*ids, *new], k)
        usage = {
            "prompt_tokens": len(ids),
            "completion_tokens": len(new),
            "total_tokens": len(ids) + len(new),
        }
        reply: dict[str, Any] = {"object": "text_completion", "choices": [choice], "usage": usage}
        return 200, {**reply, **({"system_fingerprint": self.stamp} if self.stamp else {})}

    def _continue(self, ids: list[int], count: int) -> tuple[list[int], torch.Tensor]:
        """Return greedy tokens, and of each place the log-probabilities of the token that stands there."""
        ids, begin = list(ids), len(ids)
        with self._lock, torch.no_grad():
            for _ in range(count):
                ids.append(int(self.model(torch.tensor([ids])).logits[0, -1].argmax()))
            logp_LV = self.model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
        shifted = torch.cat([logp_LV[:1], logp_LV[:-1]])
        return ids[begin:], torch.roll(shifted, -self.shift, 0)

    def _name_by_id(self, logp_LV: torch.Tensor, ids: list[int], i: int, k: int) -> dict[str, Any]:
        picked = dict.fromkeys([*logp_LV[i].topk(k).indices.tolist(), ids[i]])
        return {
            str(t): {"logprob": float(logp_LV[i, t]), "decoded_token": self.tokenizer.decode([t])}
            for t in picked
        }

    def _show(self, token: int) -> str:
        """Return a token's text, a first blank included, as servers do."""
        raw = str(self.tokenizer.convert_ids_to_tokens(token))
        return raw.replace("▁", " ") if "▁" in raw else str(self.tokenizer.decode([token]))

    def _name_by_text(self, logp_LV: torch.Tensor, ids: list[int], k: int) -> dict[str, Any]:
        texts = [self._show(t) for t in ids]
        tops: list[Any] = [None]
        for i in range(1, len(ids)):
            best = logp_LV[i].topk(k).indices.tolist()
            tops.append({self._show(t): float(logp_LV[i, t]) for t in best})
        own = [None] + [float(logp_LV[i, ids[i]]) for i in range(1, len(ids))]
        return {"tokens": texts, "token_logprobs": own, "top_logprobs": tops}


def error(message: str) -> dict[str, Any]:
    """Return an error as servers write it."""
    return {"error": {"message": message, "type": "BadRequestError"}}


@contextmanager
def serve(server: FakeServer, port: int = 0) -> Iterator[FakeServer]:
    """Answer while the body runs."""

    # What a server said is remembered under its address, and ports come round again.
    start = f"/{uuid.uuid4().hex[:8]}" if port == 0 else ""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.path = self.path.removeprefix(start)
            server.headers = dict(self.headers)
            server.asked.append((self.path, {}))
            known = self.path == "/v1/models"
            self._reply(200 if known else 404, server.list_models() if known else error("not found"))

        def do_POST(self) -> None:
            self.path = self.path.removeprefix(start)
            server.headers = dict(self.headers)
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.asked.append((self.path, body))
            time.sleep(server.slow_s)
            with server._lock:
                fault = server.faults.popleft() if server.faults else None
            if fault is None:
                self._reply(*server.complete(body))
            else:
                self._fail(fault, body)

        def _fail(self, fault: int | str, body: dict[str, Any]) -> None:
            if fault == "drop":
                self.close_connection = True
                return
            if fault == "no json":
                self._send(200, b"<html>a proxy's page</html>", {})
            elif fault == "empty":
                self._reply(200, {"choices": []})
            elif fault == "other tokens":
                status, reply = server.complete({**body, "prompt": list(reversed(body["prompt"]))})
                self._reply(status, reply)
            elif fault == "probabilities":
                status, reply = server.complete(body)
                text = json.dumps(reply).replace('"logprob": -', '"logprob": ')
                self._send(status, text.encode(), {})
            elif fault == "busy":
                self._send(429, json.dumps(error("too many requests")).encode(), {"Retry-After": "0.3"})
            elif fault == "elsewhere":
                self._send(307, b"", {"Location": "http://example.org/v1/completions"})
            else:
                assert isinstance(fault, int)
                self._reply(fault, error(f"status {fault}, key {self.headers.get('Authorization')}"))

        def _reply(self, status: int, reply: dict[str, Any]) -> None:
            self._send(status, json.dumps(reply).encode(), {})

        def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            """Say nothing: clients that do not wait close their connection."""

    with Server(("127.0.0.1", port), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        server.url = f"http://127.0.0.1:{http.server_address[1]}{start}/v1"
        try:
            yield server
        finally:
            http.shutdown()
            thread.join()
