"""A run whose teacher is behind a server that is slow, busy and sparing; and a second one, which asks it nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import raykd
from tests.fake_server import FakeServer, serve
from tests.made_models import made_texts, save_decoder

K = 12


def write_run(folder: Path, url: str, tokenizer: Path) -> dict[str, Any]:
    texts = made_texts(60, seed=1)[0]
    for split, part in (("train", texts[:40]), ("validation", texts[40:50]), ("test", texts[50:])):
        rows = [{"src": text[:12], "tgt": text[12:] or "we", "lang": "en"} for text in part]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    files = {
        split: {"kind": "files", "paths": [str(folder / f"{split}.jsonl")]}
        for split in ("train", "validation", "test")
    }
    return {
        "name": "served",
        "output": str(folder / "runs"),
        "task": {
            "kind": "causal_lm",
            "max_length": 64,
            "max_target_length": 40,
            "answers": {"kind": "top_k", "k": K},
        },
        "data": {"languages": ["en"], "columns": {"source": "src", "target": "tgt", "language": "lang"}, **files},
        "student": {"kind": "pretrained", "path": str(tokenizer)},
        "teachers": [
            {
                "name": "llm", "languages": "all", "url": url, "tokenizer": str(tokenizer), "on_poor": "warn",
                "retry_s": 30, "price": {"per_million_tokens": 2.0}, "budget": {"money": 1.0},
            }
        ],
        "objective": {"alpha": 0.5, "temperature": 1.0},
        "train": {"steps": 5, "batch_size": 8, "evaluations": 1},
    }  # fmt: skip


def test_a_slow_busy_and_sparing_server_teaches_and_a_second_run_asks_nothing(
    ray_cluster: None, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    model = save_decoder(tmp_path / "model", "bytes", made_texts(60)[0])
    with serve(FakeServer.of(model)) as server:
        tree = write_run(tmp_path, server.url, model)
        found = {finding.what: finding for finding in raykd.check(tree)}
        assert [finding.error for finding in found.values() if finding.error] == []
        assert f"tiny at {server.url}" in found["teacher llm"].detail
        assert "units of a row are usable" in found["self-test llm"].detail
        plan = {finding.what: finding.detail for finding in raykd.plan(tree)}
        asked = server.completions
        server.slow_s, server.few = 0.02, 3
        server.faults.extend(["busy", 503, "drop", "busy", "no json"])
        run = raykd.train(tree, progress=False)
        rows = server.completions - asked
        assert rows == 40 + 10 + 10 + 5, "each row once, and each fault once more"
        page = run.report.read_text(encoding="utf-8")
        assert "its server gave fewer log-probabilities than asked for" in page
        client = MlflowClient(f"sqlite:///{tmp_path}/runs/mlflow.db")
        metrics = client.get_run(run.mlflow_run_id).data.metrics
        assert metrics["teacher/llm/requests"] >= rows and metrics["teacher/llm/retries"] == 5
        assert metrics["teacher/llm/few_units"] > 0 and metrics["teacher/llm/unusable_units"] == 0
        tokens = metrics["teacher/llm/tokens"]
        assert metrics["teacher/llm/money"] == pytest.approx(2e-6 * tokens)
        (planned,) = re.findall(r"60 texts x about (\d+) tokens", plan["requests of llm"])
        assert int(planned) == pytest.approx(tokens / 60, rel=0.15)
        before = len(server.asked)
        raykd.train({**tree, "name": "again"}, progress=False)
        assert server.asked[before:] == []
