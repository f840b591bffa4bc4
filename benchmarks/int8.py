"""Whether a teacher in int8 pays on this CPU: texts/s, added KL, companions, loading and memory beside float types.

    python -m benchmarks.int8 [--data DIR] [--sizes 6x384 12x768] [--threads 1 2] [--rounds 5] [--train 90] [--texts 400]

Teachers are BERT encoders that are trained here first, for `--train` CPU seconds on texts cut at 48 tokens, because the
answers of random weights are all alike. DIR holds sentiment/{zh,en,fr}/{train,validation}.jsonl with text, label and
lang; without it the embedded corpus is used. Everything is measured on up to `--texts` validation texts, tokenisation
included. Arms strictly alternate; loading and memory are of a process of their own for each arm.

- dynamic: torch's dynamic quantisation, one scale for all tokens of a batch; so is ONNX Runtime's.
- rows: a scale for each token (`RowLinear`); the rest of the model in the float type.
- added KL: KL(float32 || arm), in % of the entropy of float32's answers.
- companions: the largest difference of a probability between a text alone and the same text beside others.
- self-test: which texts raykd's self-test would let share a pass.

The arm of ONNX Runtime needs the packages onnx, onnxscript and onnxruntime. ONEDNN_MAX_CPU_ISA=AVX512_CORE_VNNI (or _BF16)
before the command makes torch's float types and `rows` compute as on a CPU without AMX.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import torch
from torch import nn

from benchmarks.measure import Rounds, alternate, show
from raykd import models
from raykd.config import RunConfig
from raykd.data.load import load_data
from raykd.prediction.selftest import find_padding
from raykd.tasks import Classification
from raykd.teachers.backends.precision import read_cpu_flags
from raykd.text.batch import TextBatch
from raykd.text.padding import read_padding, split_passes

LABELS = ("negative", "positive")
LANGUAGES = ("zh", "en", "fr")
TASK = Classification(max_length=128)
MAX_TOKENS = 2048
BLOCK = {384: 96, 768: 48}
"""Texts of a block by width, so that a block takes about as long in each size."""
GOAL_GAIN, GOAL_KL = 2.0, 0.5
NO_COMPANIONS = 2e-3
"""Difference by companions that counts as none: a little more than bfloat16's rounding makes."""


class RowLinear(nn.Module):
    """A linear layer in int8 with a scale for each token and each output, so that no row depends on another.

    It is what plain operators of torch can do: quantise, an integer product, and the scales behind it.

    Args:
        layer: The layer that it stands for.
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        weight_OI = layer.weight.detach().float()
        scale_O = weight_OI.abs().amax(1).clamp_min(1e-12) / 127
        self.register_buffer("weight_IO", (weight_OI / scale_O[:, None]).round().to(torch.int8).t())
        self.register_buffer("scale_O", scale_O)
        self.register_buffer("bias_O", layer.bias.detach().float())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the layer's output in the type of its input."""
        flat_NI = x.reshape(-1, x.shape[-1])
        scale_N1 = flat_NI.abs().amax(-1, keepdim=True).float().clamp_min_(1e-12).div_(127)
        whole_NI = (flat_NI / scale_N1).round_().to(torch.int8)
        product_NO = torch._int_mm(whole_NI, self.weight_IO) * scale_N1
        torch.addcmul(self.bias_O, product_NO, self.scale_O, out=product_NO)
        return product_NO.to(x.dtype).reshape(*x.shape[:-1], -1)


def quantise_rows(model: nn.Module) -> nn.Module:
    """Replace every linear layer of an encoder with `RowLinear`, in place."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear) and child.out_features > len(LABELS):
                setattr(module, name, RowLinear(child))
    return model


def quantise_dynamically(model: nn.Module, engine: str) -> nn.Module:
    """Quantise with torch's own dynamic quantisation, which has one scale for all tokens of a batch."""
    from torch.ao.quantization import quantize_dynamic

    before, torch.backends.quantized.engine = torch.backends.quantized.engine, engine
    try:
        quantised: nn.Module = quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
        return quantised
    finally:
        torch.backends.quantized.engine = before


def export_int8(model: nn.Module, threads: int) -> Any:
    """Export to ONNX, quantise dynamically and return what answers as the model does."""
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic

    names = ["input_ids", "attention_mask", "token_type_ids"]
    example = {name: torch.ones(2, 8, dtype=torch.int64) for name in names}
    axes = {0: torch.export.Dim("rows"), 1: torch.export.Dim("tokens")}
    with tempfile.TemporaryDirectory() as folder:
        plain, whole = str(Path(folder) / "float.onnx"), str(Path(folder) / "int8.onnx")
        program = torch.onnx.export(
            model, (), kwargs=example, dynamic_shapes=dict.fromkeys(names, axes), dynamo=True, verbose=False
        )
        program.save(plain)
        quantize_dynamic(plain, whole, weight_type=QuantType.QInt8, per_channel=True)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        session = onnxruntime.InferenceSession(whole, options, providers=["CPUExecutionProvider"])

    def forward(**inputs: torch.Tensor) -> Any:
        fed = {name: inputs[name].numpy() for name in names}
        return SimpleNamespace(logits=torch.from_numpy(session.run(None, fed)[0]))

    return forward


Make = Callable[[nn.Module, int], Any]
ARMS: dict[str, Make] = {
    "float32": lambda model, threads: model,
    "bfloat16": lambda model, threads: model.bfloat16(),
    "dynamic x86": lambda model, threads: quantise_dynamically(model, "x86"),
    "dynamic onednn": lambda model, threads: quantise_dynamically(model, "onednn"),
    "rows + float32": lambda model, threads: quantise_rows(model),
    "rows + bfloat16": lambda model, threads: quantise_rows(model.bfloat16()),
    "ONNX Runtime": export_int8,
}


def list_arms() -> list[str]:
    """List the arms that this machine can run."""
    left_out = set()
    if "amx_int8" not in read_cpu_flags() or os.environ.get("ONEDNN_MAX_CPU_ISA"):
        left_out.add("dynamic onednn")  # without AMX it took minutes for a single product
    if not all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime")):
        left_out.add("ONNX Runtime")
    return [name for name in ARMS if name not in left_out]


def load_rows(data: Path | None) -> tuple[Any, Any]:
    """Load training and validation rows."""
    source: Any = {"kind": "embedded", "rows_per_language": 1500}
    validation: Any = {"kind": "embedded", "split": "validation", "rows_per_language": 100}
    if data is not None:
        files = [str(data / "sentiment" / lang / "train.jsonl") for lang in LANGUAGES]
        source = {"kind": "files", "paths": files}
        validation = {"kind": "files", "paths": [f.replace("train", "validation") for f in files]}
    tree = {
        "data": {"train": source, "validation": validation, "labels": LABELS, "languages": list(LANGUAGES)},
        "task": {"kind": "classification", "max_length": TASK.max_length},
        "student": {"kind": "linear"},
        "objective": {"alpha": 1.0},
    }
    config = RunConfig.model_validate(tree)
    loaded = load_data(config.data, Path.cwd(), config.form)
    return loaded.train, loaded.validation


def train_teacher(layers: int, hidden: int, rows: Any, limit_s: float) -> models.TextModel:
    """Train an encoder on the rows by plain torch, in autocast to bfloat16, for so many CPU seconds."""
    spec = models.TransformerStudent(layers=layers, hidden=hidden, heads=hidden // 64, vocab_size=8000)
    tokenizer = spec.fit_tokenizer(rows.texts)
    model = spec.build(tokenizer, LABELS, 0)
    encoded = Classification(max_length=48).encode(tokenizer, rows)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-4 if hidden < 768 else 5e-5, weight_decay=0.01)
    warm = torch.optim.lr_scheduler.LinearLR(optimizer, 0.05, total_iters=20)
    drawn = np.random.default_rng(0)
    model.train()
    padding, end = read_padding(model, tokenizer), time.process_time() + limit_s
    while time.process_time() < end:
        batch = TASK.collate(encoded, drawn.integers(len(rows), size=24).tolist(), padding)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits_NC = model(**batch.inputs).logits
        nn.functional.cross_entropy(logits_NC.float(), batch.labels_N).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        warm.step()
    return models.TextModel(model.eval(), tokenizer, LABELS, max_length=TASK.max_length)


def answer(
    module: Any, model: models.TextModel, batch: TextBatch, max_tokens: int = MAX_TOKENS
) -> np.ndarray:
    """Return the log-probabilities of texts [N, C], as a teacher computes them."""
    encoded = TASK.encode(model.tokenizer, batch)
    logp_NC = np.empty((len(batch), len(LABELS)))
    with torch.inference_mode():
        for picked in split_passes(encoded.lengths_B, max_tokens):
            padded = TASK.collate(encoded, picked, model.padding)
            logits_NC = TASK.gather(padded.run(module), padded).double()
            logp_NC[picked] = logits_NC.log_softmax(-1).numpy()
    return logp_NC


@dataclass(frozen=True)
class Fidelity:
    """How near an arm's answers are to float32's.

    Attributes:
        kl: Mean KL(float32 || arm), in % of the mean entropy of float32's answers.
        agreement: Share of texts with the same likeliest label.
        companions: Largest difference of a probability between a text alone and beside others.
        shapes: How the self-test lets texts share a forward pass: "single" is not at all.
    """

    kl: float
    agreement: float
    companions: float
    shapes: str


def compare(reference_NC: np.ndarray, module: Any, model: models.TextModel, rows: Any) -> Fidelity:
    """Compare an arm's answers with float32's, and its answers alone with those in a batch."""
    logp_NC = answer(module, model, rows)
    p_NC = np.exp(reference_NC)
    kl = (p_NC * (reference_NC - logp_NC)).sum(1).mean() / -(p_NC * reference_NC).sum(1).mean()
    alone_NC = answer(module, model, rows.take(range(48)), max_tokens=1)
    shapes = "-"
    if isinstance(module, nn.Module):
        tested = dataclasses.replace(model, model=module)
        shapes = find_padding(tested, TASK, rows.take(range(0, len(rows), 20))).shapes
    return Fidelity(
        100 * float(kl),
        float((logp_NC.argmax(1) == reference_NC.argmax(1)).mean()),
        float(np.abs(np.exp(alone_NC) - np.exp(logp_NC[:48])).max()),
        shapes,
    )


def measure_load(folder: Path, arm: str) -> tuple[float, float]:
    """Return the seconds that loading takes and the MB that it leaves in memory, in a process of its own."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.int8", "--load", str(folder), arm]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, megabytes = json.loads(done.stdout.splitlines()[-1])
    return seconds, megabytes


def print_load(folder: Path, arm: str) -> None:
    """Load a teacher, answer a text, and print what `measure_load` returns."""
    import transformers  # noqa: F401  (not counted: every arm imports it)

    process = psutil.Process()
    before, begun = process.memory_info().rss, time.perf_counter()
    module = ARMS[arm](models.load_model(folder).model.eval().requires_grad_(False), 1)
    seconds = time.perf_counter() - begun
    print(json.dumps([seconds, (process.memory_info().rss - before) / 2**20]), flush=bool(module))


def make_blocks(arms: dict[str, Any], model: models.TextModel, rows: Any, block: int) -> Iterator[Any]:
    """Make for each arm a function that answers a block of texts and returns the seconds a text."""
    texts = rows.take(np.random.default_rng(1).permutation(len(rows))[:block].tolist())

    def measure(module: Any) -> Callable[[], float]:
        def run() -> float:
            begun = time.perf_counter()
            answer(module, model, texts)
            return (time.perf_counter() - begun) / block

        return run

    yield from ((name, measure(module)) for name, module in arms.items())


def report(
    size: str, threads: int, rounds: Rounds, fidelity: dict[str, Fidelity], loads: dict[str, Any]
) -> None:
    """Print the table of one size and number of threads."""
    best = min(("float32", "bfloat16"), key=rounds.median_ms)
    lines = []
    for name in rounds.seconds:
        gain, low, high = rounds.ratio(best, name)
        found, (seconds, megabytes) = fidelity[name], loads[name]
        lines.append([
            name, f"{1e3 / rounds.median_ms(name):.0f}", f"{gain:.2f} ({low:.2f}-{high:.2f})", f"{found.kl:.3f} %",
            f"{100 * found.agreement:.1f} %", f"{found.companions:.0e}", found.shapes, f"{seconds:.1f} s", f"{megabytes:.0f} MB",
        ])  # fmt: skip
    heads = [
        "arm",
        "texts/s",
        f"/ {best}",
        "added KL",
        "same label",
        "companions",
        "self-test",
        "load",
        "memory",
    ]
    show(f"teacher {size}, {threads} thread(s)", heads, lines)
    whole = [n for n in rounds.seconds if n not in ("float32", "bfloat16")]
    right = [n for n in whole if fidelity[n].kl <= GOAL_KL and fidelity[n].companions < NO_COMPANIONS]
    fastest = max(right, key=lambda n: rounds.ratio(best, n)[0], default=None)
    gain = 0.0 if fastest is None else rounds.ratio(best, fastest)[0]
    verdict = "met" if gain >= GOAL_GAIN else "missed"
    print(
        f"int8 without companions and within {GOAL_KL} %: {fastest}, {gain:.2f} x {best}; goal {GOAL_GAIN}: {verdict}"
    )


def measure_size(size: str, options: argparse.Namespace, rows: Any, held_out: Any) -> None:
    """Train a teacher of a size and print its tables."""
    layers, hidden = (int(part) for part in size.split("x"))
    torch.set_num_threads(1)  # several wait for one another where other work runs beside
    model = train_teacher(layers, hidden, rows, options.train)
    reference_NC = answer(model.model, model, held_out)
    labels_N = TASK.collate(
        TASK.encode(model.tokenizer, held_out), list(range(len(held_out))), model.padding
    ).labels_N.numpy()
    right = float((reference_NC.argmax(1) == labels_N).mean())
    entropy = -(np.exp(reference_NC) * reference_NC).sum(1).mean()
    print(f"{size}: trained for {options.train:.0f} s, validation accuracy "
          f"{100 * right:.1f} % of {len(held_out)} texts, mean entropy {entropy:.2f} nats", flush=True)  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        models.save_model(model, Path(folder) / "teacher")
        loads = {name: measure_load(Path(folder) / "teacher", name) for name in list_arms()}
    for threads in options.threads:
        torch.set_num_threads(threads)
        arms = {name: ARMS[name](copy.deepcopy(model.model), threads) for name in list_arms()}
        fidelity = {name: compare(reference_NC, module, model, held_out) for name, module in arms.items()}
        blocks = dict(make_blocks(arms, model, held_out, BLOCK.get(hidden, 48)))
        report(size, threads, alternate(blocks, options.rounds), fidelity, loads)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark and print its tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--sizes", nargs="+", default=["6x384", "12x768"])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--train", type=float, default=90.0)
    parser.add_argument("--texts", type=int, default=400)
    parser.add_argument("--load", nargs=2, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    warnings.filterwarnings("ignore")
    if options.load:
        print_load(Path(options.load[0]), options.load[1])
        return
    rows, held_out = load_rows(options.data)
    held_out = held_out.take(range(0, len(held_out), -(-len(held_out) // options.texts)))
    for size in options.sizes:
        measure_size(size, options, rows, held_out)


if __name__ == "__main__":
    main()
