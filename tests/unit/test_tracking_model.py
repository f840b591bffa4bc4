"""The logged model carries its code: it loads where no index and no folder has raykd, and says what the student
says."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import raykd
from raykd.models import LinearStudent, LSTMStudent, TextModel, TransformerStudent, load_model, save_model
from raykd.prediction.predictor import Predictor, build_unlabelled_rows
from raykd.tracking import Tracker
from raykd.tracking.packing import CARRIED, NEEDED, list_requirements

TEXTS = ["bon film", "mauvais film", "这部电影很好", ""]
LABELS = ("negative", "positive")
IMPORTED = {"yaml": "PyYAML", "rouge_score": "rouge-score"}
"""Packages that are not called as they are imported."""
OPTIONAL = {"peft", "sklearn", "triton"}
"""Not needed to answer: adapters that were made with peft, the tables of `raykd evaluate`, kernels of a GPU's training."""
STRANGER = """
import json, sys
sys.path = [p for p in sys.path if p.endswith(("site-packages", "lib-dynload")) or p.endswith((".zip", "/python3.11"))]
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
try:
    import raykd
    raise SystemExit("raykd is importable, so this shows nothing")
except ImportError:
    pass
import mlflow, pandas
uri, models, texts = json.loads(sys.argv[1])
mlflow.set_tracking_uri(uri)
before = list(sys.path)
answers = [mlflow.pyfunc.load_model(m).predict(pandas.DataFrame({"text": texts})) for m in models]
import raykd
assert "mlartifacts" in raykd.__file__ and sys.path == before
print("ANSWERS" + json.dumps([a[["p_negative", "p_positive"]].to_numpy().tolist() for a in answers]))
"""


def modules_of(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
    return found


def test_what_a_model_carries_imports_nothing_that_it_does_not_carry_or_name() -> None:
    package = Path(raykd.__file__).parent
    files = [
        f
        for name in CARRIED
        for f in ([package / name] if name.endswith(".py") else (package / name).rglob("*.py"))
    ]
    modules = set().union(*(modules_of(ast.parse(file.read_text(encoding="utf-8"))) for file in files))
    own = {f"{module}.".split(".")[1] for module in modules if module.split(".")[0] == "raykd"} - {""}
    own -= {"api", "saved_models", "results"}  # of the public functions, imported when one is called
    assert own <= {name.partition("/")[0].removesuffix(".py") for name in CARRIED}
    foreign = {module.split(".")[0] for module in modules} - set(sys.stdlib_module_names) - {"raykd"}
    assert {IMPORTED.get(name, name) for name in foreign} - OPTIONAL <= set(NEEDED)
    assert all("raykd" not in line and "+" not in line for line in list_requirements())


@pytest.mark.nightly
def test_a_logged_student_answers_where_raykd_is_not_installed(mlflow_uri: str, tmp_path: Path) -> None:
    models, wanted = [], []
    with Tracker.start(mlflow_uri, "models", "r", params={}, tags={}, directory=tmp_path / "r") as tracker:
        for student in (
            LinearStudent(buckets=64),
            LSTMStudent(embedding=8, hidden=8, vocab_size=120),
            TransformerStudent(hidden=8, layers=1),
        ):
            tokenizer = student.fit_tokenizer(TEXTS)
            network = student.build(tokenizer, LABELS, 3)
            with torch.random.fork_rng():
                torch.manual_seed(0)
                for weights in network.parameters():
                    torch.nn.init.normal_(weights)
            built = TextModel(network, tokenizer, LABELS, kind=student.kind, max_length=32)
            folder = save_model(built, tmp_path / student.kind)
            models.append(tracker.log_student(folder, LABELS, ("fr", "zh")))
            rows = Predictor.of(load_model(folder)).predict(build_unlabelled_rows("text", TEXTS, None))
            wanted.append([[row["probabilities"][label] for label in LABELS] for row in rows])
    done = subprocess.run(
        [sys.executable, "-I", "-c", STRANGER, json.dumps([mlflow_uri, models, TEXTS])],
        capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    answers = json.loads(done.stdout.split("ANSWERS")[1])
    torch.testing.assert_close(torch.tensor(answers), torch.tensor(wanted), atol=1e-5, rtol=0)
