"""The page is one file, safe, whole, and says the same numbers as the table."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import chain

import numpy as np
import pytest
from sklearn.metrics import classification_report

from raykd.ensemble.contributions import Contribution
from raykd.point import Point
from raykd.report import plots
from raykd.report.ensembles.page import write_ensemble_page
from raykd.report.ensembles.report import AdviceLine, EnsembleReport, HardRow, View
from raykd.report.html import hash_script, list_contents, read_asset
from raykd.report.results import Predictions, build_calibration_curve, compute_agreement
from raykd.report.runs.page import draw_run_figures, write_run_page
from raykd.report.runs.report import RunReport, TeacherFacts, read_run_report
from raykd.report.table import format_system
from raykd.results import Run
from raykd.tasks.scores.classes import ClassAnswers, compute_class_scores
from tests.charts import NODE, draw_in_node, read_rows, strip_scripts
from tests.fakes import scored

EVIL = "<script>alert('x')</script>"
ROWS = 90


def system(name, role, right, covered=("zh", "en", "fr"), seed=0):
    rng = np.random.default_rng(seed)
    languages = tuple(np.repeat(["zh", "en", "fr"], ROWS // 3))
    labels_N = rng.integers(0, 3, ROWS)
    chosen = np.where(rng.random(ROWS) < right, labels_N, (labels_N + 1) % 3)
    logits_NC = rng.normal(0, 0.3, (ROWS, 3)).astype(np.float32)
    logits_NC[np.arange(ROWS), chosen] += 2.0
    covered_N = np.isin(languages, covered)
    classes = compute_class_scores(
        ClassAnswers(("a", f"b{EVIL}", "c"), labels_N[covered_N], logits_NC.argmax(1)[covered_N])
    ) if covered else None  # fmt: skip
    return Predictions(
        name, role, logits_NC, covered_N, labels_N, languages, 1_000_000, 12.5, classes=classes
    )


@pytest.fixture(scope="module")
def report():
    systems = [
        system(f"t-zh{EVIL}", "teacher", 0.9, ("zh",)),
        system("t-$multi$", "teacher", 0.8),
        system("ensemble", "ensemble", 0.9),
        system("baseline", "baseline", 0.6),
        system("student", "student", 0.8),
    ]
    points = [
        Point(s, {"train/loss": 1 / s, "train/hard": 2 / s, "train/soft/forward_kl": 0.5 / s, "train/alpha": 0.5,
                  "train/lambda/forward_kl": 1.0, "train/temperature": 4.0, "eval/zh/accuracy": 0.5, "eval/mean/accuracy": 0.6,
                  "eval/mean/nll": float("nan") if s == 3 else 0.7, "teacher/t-zh/weight": 0.4, "teacher/m/weight": 0.6}, s)
        for s in range(1, 1000)
    ]  # fmt: skip
    return RunReport(
        title=f"run {EVIL}",
        summary=f"A student {EVIL} learns 情感.",
        systems=tuple((p, scored(p)) for p in systems),
        history=plots.collect_curves(points),
        teachers=(
            TeacherFacts(
                "t-zh",
                ("zh",),
                EVIL,
                "0123456789abcdef99",
                1_000_000,
                {"accuracy": 0.9},
                12.34,
                0.98,
                {"zh": 0.5},
            ),
            TeacherFacts("m", weights={"zh": 0.5, "en": 1.0}),
        ),
        data=(("split", "zh", "all"), ("train", "1,000", EVIL)),
        config=f"name: {EVIL}\n",
        environment={"python": EVIL},
        facts={"MLflow": EVIL},
        notes=(EVIL, "37 units were covered by no teacher"),
        created="2025-01-01",
        ensemble=made_ensemble(),
        agreement=compute_agreement(systems),
        calibration=tuple(
            curve for p in systems[2:] if (curve := build_calibration_curve(p, format_system(p))) is not None
        ),
    )


def made_ensemble():
    means = [Contribution(f"t{EVIL}", "mean", "", 0.123, 0.1, 0.15, 0.9, -0.02, 90)]
    return EnsembleReport(
        EVIL, "classification", "accuracy", 90, True, ("zh",), (f"t{EVIL}",), "uniform", 2, True, 0.9, 0.5,
        contributions=(*means, *(replace(c, group="language", name="zh") for c in means)),
        advice=(AdviceLine("drop", f"t{EVIL}", ("zh",), None, None, None, f"drop t{EVIL}"),),
        comparisons=4,
        hardest=(HardRow(EVIL, "zh", "positive", (View(f"t{EVIL}", EVIL, 0.1),), EVIL),),
        missing=(EVIL,),
    )  # fmt: skip


@pytest.fixture(scope="module")
def page(report, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "out" / "report.html"
    assert write_run_page(report, path) == path
    return path


class Reader(HTMLParser):
    """Collects tags, ids, addresses and the cells of tables; complains about what is closed wrongly."""

    VOID = ("meta", "br", "link", "img", "input", "hr")

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.ids, self.links, self.cells, self.text = [], [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.ids += [v for k, v in attrs if k == "id"]
        self.links += [v for k, v in attrs if k in ("src", "href", "xlink:href", "action", "data")]
        if tag not in self.VOID:
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1] += data


@pytest.fixture(scope="module")
def read(page):
    reader = Reader()
    reader.feed(page.read_text(encoding="utf-8"))
    return reader


def test_classes_are_read_from_the_folder_as_scikit_learn_counts_them(report, tmp_path):
    (tmp_path / "run.json").write_text('{"status": "finished", "mlflow_run_id": "abc"}')
    (tmp_path / "report.json").write_text(json.dumps(report.to_json()))
    rows = Run.read(tmp_path).classes
    student = report.table.systems[-1][0]
    counts = classification_report(
        student.labels_N, student.logits_NC.argmax(1), target_names=["a", f"b{EVIL}", "c"], output_dict=True
    )
    own = {row["name"]: row for row in rows if row["role"] == "student"}
    assert list(own) == ["a", f"b{EVIL}", "c", "micro", "macro", "weighted"]
    for name, wanted in (
        *list(counts.items())[:3],
        ("macro", counts["macro avg"]),
        ("weighted", counts["weighted avg"]),
    ):
        assert own[name] | {"f1-score": own[name]["f1"]} == pytest.approx(own[name] | wanted)
    assert own["micro"]["f1"] == pytest.approx(counts["accuracy"])
    assert [row["average"] for row in own.values()] == [False] * 3 + [True] * 3
    pairs = student.classes.to_confusion_rows()
    found = {(row["gold"], row["predicted"]): row["count"] for row in pairs}
    assert sum(found.values()) == ROWS
    assert found["a", "a"] == int(((student.labels_N == 0) & (student.logits_NC.argmax(1) == 0)).sum())


def test_nothing_is_loaded_from_anywhere_and_only_two_scripts_may_run(page, read):
    html = page.read_text(encoding="utf-8")
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#)", strip_scripts(html))
    assert all(link.startswith("#") for link in read.links)
    assert not {"link", "img", "iframe", "object"} & set(read.tags)
    scripts = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    assert scripts == [read_asset("library/charts.min.js"), read_asset("page.js")]
    policy = " ".join(f"'sha256-{hash_script(text)}'" for text in scripts)
    assert "default-src 'none'" in html and f'script-src {policy}">' in html
    assert "fetch(" not in read_asset("page.js")


def test_the_contents_lead_to_every_section(page, read):
    html = page.read_text(encoding="utf-8")
    sections = list_contents(html)
    assert [title for _, title in sections][:3] == ["Results", "By label: distilled student", "Training"]
    assert all(html.count(f'<h2 id="{name}">') == 1 and f'href="#{name}"' in html for name, _ in sections)
    assert len(re.findall("<h2", strip_scripts(html))) == len(sections)


def test_names_are_escaped_and_the_page_is_well_formed(page, read):
    assert EVIL not in page.read_text(encoding="utf-8")
    assert "".join(read.text).count(EVIL) >= 8
    assert read.open == []
    assert len(read.ids) == len(set(read.ids))


def test_the_numbers_are_those_of_the_table(report, read):
    heads, lines = report.table.to_cells()
    second_heads, second = report.table.language_cells()
    wanted = [*heads, *chain(*lines), *second_heads, *chain(*second)]
    assert read.cells[: len(wanted)] == wanted
    text = "".join(read.text)
    assert str(report.table.gap) in text
    assert "37 units were covered by no teacher" in text
    assert "0123456789abcdef" in text


def test_report_json_holds_the_same(report, page):
    tree = json.loads((page.parent / "report.json").read_text(encoding="utf-8"))
    assert tree["results"] == json.loads(json.dumps(report.table.to_rows()))
    assert tree["gap"]["points"] == report.table.gap.points
    assert tree["history"]["eval/mean/nll"][2] == [3, None]
    assert tree["teachers"][0]["weights"] == {"zh": 0.5}
    assert tree["agreement"]["share"][0][0] == 1.0
    assert "logits" not in json.dumps(tree)


def test_a_report_with_nothing_in_it_is_a_page(tmp_path):
    path = write_run_page(RunReport("empty", "Nothing was run.", ()), tmp_path / "r.html")
    assert "No system was measured" in path.read_text(encoding="utf-8")


def test_every_chart_is_drawn_from_the_numbers_of_the_table(report):
    drawn = draw_run_figures(report)
    assert set(drawn) == {
        "languages", "evaluation", "training", "schedules", "reliability", "agreement", "confusions", "weights",
        "weights_over_steps",
    }  # fmt: skip
    assert all(caption for _, caption in drawn.values())
    bars = {(row["system"], row["panel"]): row for row in read_rows(drawn["languages"][0])}
    for p, s in report.table.systems:
        for language, values in s.by_language.items():
            row = bars[format_system(p), language]
            assert row["value"] == pytest.approx(100 * values["accuracy"], rel=1e-5)
            assert row["shown"] == f"{100 * values['accuracy']:.1f}"
    assert bars["t-$multi$", "mean"]["shown"] != "–" and bars[f"t-zh{EVIL}", "mean"]["shown"] == "–"
    curve = [row for row in read_rows(drawn["evaluation"][0]) if row["line"] == "mean" and row["y"] == 0.7]
    assert curve, "the NLL of the mean"
    counts = [row["count"] for row in read_rows(drawn["confusions"][0])]
    assert counts == [n for line in next(iter(report.classes.values())).confusion for n in line]
    shares = [
        row["units"] for row in read_rows(drawn["reliability"][0]) if row.get("system") == "distilled student"
    ]
    assert sum(shares) == ROWS


@pytest.mark.skipif(NODE is None, reason="needs node")
def test_the_library_draws_every_chart(report):
    for name, found in draw_in_node(draw_run_figures(report)).items():
        assert found["warnings"] == [] and "NaN" not in found["svg"], (name, found["warnings"])
        assert "currentColor" in found["svg"]


def test_the_scores_of_classes_are_those_of_the_student(report, read):
    scores = report.classes["distilled student"]
    text = "\n".join(read.cells)
    for one in scores.classes:
        assert f"{100 * one.precision:.1f}\n{100 * one.recall:.1f}\n{100 * one.f1:.1f}\n{one.support}" in text


def test_a_page_is_written_again_from_the_records_alone(report, page, tmp_path):
    again = read_run_report(page.parent)
    assert again.ensemble is None, "it stands in ensemble.json"
    write_ensemble_page(made_ensemble(), page.parent)
    again = read_run_report(page.parent)
    second = write_run_page(again, tmp_path / "report.html")
    assert second.read_text(encoding="utf-8") == page.read_text(encoding="utf-8")
    assert (tmp_path / "report.json").read_text("utf-8") == (page.parent / "report.json").read_text("utf-8")


def test_plots_without_data_are_none():
    nobody = system("x", "student", 0.5, ())
    assert plots.draw_training_curves({}) is None
    assert plots.draw_evaluation_curves({"train/loss": [(1, 1.0)]}) is None
    assert plots.draw_schedule_curves({}) is None
    assert plots.draw_weight_curves({}) is None
    assert plots.draw_weight_bars({}) is None
    assert build_calibration_curve(nobody, "x") is None and plots.draw_reliability([]) is None


def test_history_keeps_the_later_value_of_a_step_that_was_run_twice():
    points = [Point(1, {"a": 1.0}, 1), Point(2, {"a": 2.0, "b": 5.0}, 2), Point(2, {"a": 3.0}, 3)]
    assert plots.collect_curves(points) == {"a": [(1, 1.0), (2, 3.0)], "b": [(2, 5.0)]}


def test_the_page_says_what_each_teacher_adds(page, tmp_path):
    text = page.read_text(encoding="utf-8")
    alone = write_ensemble_page(made_ensemble(), tmp_path).read_text(encoding="utf-8")
    for words in (
        "Points per teacher and language",
        "+12.3 [+10.0, +15.0]",
        "corrected for the 4 that were looked at",
    ):
        assert words in text and words in alone
    assert EVIL not in text and EVIL not in alone
    assert json.loads((tmp_path / "ensemble.json").read_text(encoding="utf-8"))["base"] == 0.9
    assert "ensemble" not in json.loads((page.parent / "report.json").read_text(encoding="utf-8"))


def test_a_page_says_where_classes_are_decided_at_tuned_thresholds(report, tmp_path):
    said = "A student decides at its tuned thresholds"
    assert said not in write_run_page(report, tmp_path / "plain.html").read_text("utf-8")
    systems = tuple(
        (p, replace(s, by_language={x: {**own, "tuned_micro_f1": 0.5} for x, own in s.by_language.items()}))
        for p, s in report.systems
    )
    path = write_run_page(replace(report, systems=systems), tmp_path / "tuned.html")
    assert said in path.read_text("utf-8")
