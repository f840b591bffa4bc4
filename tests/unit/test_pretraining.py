"""Pretraining of a teacher as a language model on texts of its domain, and what the teacher takes over from it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from raykd import models
from raykd.config import RunConfig, TrainedTeacher
from raykd.config.loading import validate_run
from raykd.config.smoke import shorten_run
from raykd.distill.masking import replace_tokens
from raykd.driver.jobs import (
    Job,
    make_pretraining_job,
    make_pretraining_run,
    make_teacher_job,
    make_teacher_jobs,
    make_teacher_run,
)
from raykd.driver.loop import make_task_model, save_student
from raykd.errors import ConfigError, ModelError
from raykd.models.starts.handover import describe_handover
from raykd.preflight.disk import compute_disk
from raykd.preflight.teacher_check import check_teacher
from raykd.runs.stages import find_pretraining, train_teachers
from raykd.student.loop import TrainingLoop
from raykd.student.prepare import fit_tokenizer, prepare_rows
from raykd.tasks.kinds.masked_lm import MaskedLM
from raykd.text.batch import TextBatch
from tests.fakes import LABELS, save_transformer, texts_and_labels

SMALL = {"kind": "transformer", "layers": 1, "hidden": 16, "heads": 2, "vocab_size": 200, "max_positions": 40}
DECODER = {"kind": "decoder", "layers": 1, "hidden": 16, "heads": 2, "vocab_size": 520, "max_positions": 40}
SHORT = {"steps": 3, "batch_size": 8, "evaluations": 1}
STAGE = {"max_length": 24, "train": SHORT}


def run_of(
    folder: Path, *stages: dict[str, Any] | None, model: dict[str, Any] = SMALL, **changes: Any
) -> RunConfig:
    """A run with a teacher for each of the stages, over texts of two domains; one unlabelled text is a test text."""
    sources = {}
    for part, seed in (("train", 1), ("validation", 2), ("unlabeled", 3), ("test", 4)):
        texts, labels = texts_and_labels(24, seed)
        rows = [
            {"text": f"{part} {text}", "label": LABELS[y], "lang": "en", "domain": ("food", "hotel")[at % 2]}
            for at, (text, y) in enumerate(zip(texts, labels, strict=True))
        ]
        if part == "test":
            rows[0]["text"] = "unlabeled " + texts_and_labels(24, 3)[0][0]
        path = folder / f"{part}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        sources[part] = {"kind": "files", "paths": [str(path)]}
    teachers = [
        {"name": f"t{at}", "languages": "all",
         "training": {"model": model, "train": SHORT, **({} if stage is None else {"pretraining": stage})}}
        for at, stage in enumerate(stages)
    ]  # fmt: skip
    data = {**sources, "labels": list(LABELS), "languages": ["en"], "columns": {"group": "domain"}}
    tree: dict[str, Any] = {
        "name": "run", "output": str(folder / "runs"), "task": {"kind": "classification", "max_length": 24},
        "student": {"kind": "linear", "buckets": 64}, "train": SHORT, "data": data, "teachers": teachers,
    }  # fmt: skip
    return validate_run({**tree, **changes}, "run")


def teacher_of(run: RunConfig, at: int = 0) -> TrainedTeacher:
    teacher = run.teachers[at]
    assert isinstance(teacher, TrainedTeacher)
    return teacher


def save_masked_lm(folder: Path) -> Path:
    """A small BERT as plain transformers saves it."""
    from transformers import BertConfig, BertForMaskedLM

    tokenizer = models.TransformerStudent(vocab_size=200).fit_tokenizer(texts_and_labels(300)[0])
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                        intermediate_size=32, max_position_embeddings=40)  # fmt: skip
    BertForMaskedLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)  # type: ignore[attr-defined]
    return folder


def train(job: Job) -> None:
    """Train a job in this process and save its model."""
    (part,) = job.tasks.values()
    tokenizer = fit_tokenizer(part.config.student, [(part.config.task, part.data.train)])
    rows = prepare_rows(part.config, part.data.train, part.data.validation, tokenizer)
    loop = TrainingLoop(part.config, rows, make_task_model(part.config, tokenizer), None)
    loop.run()
    save_student(loop, job.output)


def test_eighty_ten_ten_as_bert_was_trained() -> None:
    places = np.arange(200_000)
    ids, others = np.full_like(places, 7), np.arange(10, 60)
    shown = replace_tokens(ids, places, "a text", 0, 4, others)
    shares = [float((shown == 4).mean()), float(np.isin(shown, others).mean()), float((shown == 7).mean())]
    # Three standard errors of a share of 0.8 of 200,000 are 0.0027.
    assert shares == [pytest.approx(share, abs=0.003) for share in (0.8, 0.1, 0.1)]
    counts = np.bincount(shown[np.isin(shown, others)] - 10, minlength=50)
    assert counts.min() > 300 and counts.max() < 500, "all others alike, 400 each on average"
    assert np.array_equal(shown, replace_tokens(ids, places, "a text", 0, 4, others))
    assert not np.array_equal(shown, replace_tokens(ids, places, "a text", 1, 4, others))
    # What stands at a place does not depend on the places beside it.
    assert np.array_equal(shown[5:9], replace_tokens(ids[5:9], places[5:9], "a text", 0, 4, others))


def test_the_places_and_what_is_to_be_guessed_are_those_of_plain_masking(tmp_path: Path) -> None:
    folder = save_transformer(tmp_path / "model")
    tokenizer = models.load_tokenizer(folder)
    texts = tuple(f"{text} again" for text in texts_and_labels(40, 5)[0])
    batch = TextBatch(texts, texts, ("en",) * 40, np.zeros(40, np.int64))
    plain, mixed = (
        MaskedLM.model_validate({"share": 0.5, "replacement": r}).encode(tokenizer, batch)
        for r in ("mask", "mixed")
    )
    assert np.array_equal(plain.labels_N, mixed.labels_N) and np.array_equal(plain.places_N2, mixed.places_N2)
    mask = tokenizer.mask_token_id
    before = np.concatenate(plain.fields["input_ids"])
    after = np.concatenate(mixed.fields["input_ids"])
    assert np.array_equal(before[before != mask], after[before != mask]), "other places stay as they are"
    share = float((after[before == mask] == mask).mean())
    assert 0.6 < share < 0.95


@pytest.mark.parametrize(
    ("stage", "model", "message"),
    [
        ({}, {"kind": "linear"}, "a model of kind linear cannot learn masked_lm; wanted transformer, lstm or pretrained"),
        ({}, DECODER, "a model of kind decoder cannot learn masked_lm"),
        ({"objective": "causal_lm"}, SMALL, "cannot learn causal_lm; wanted decoder or pretrained"),
        ({"objective": "causal_lm", "views": 2}, DECODER, "views plays no part in causal_lm"),
        ({"max_length": 64}, SMALL, "max_length 64 is larger than model.max_positions 40"),
    ],
)  # fmt: skip
def test_what_cannot_be_pretrained_is_refused_by_name(
    stage: dict[str, Any], model: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        run_of(tmp_path, {**STAGE, **stage}, model=model)


def test_texts_and_a_task_that_gain_from_it_are_needed(tmp_path: Path) -> None:
    run = run_of(tmp_path, STAGE)
    tree = run.model_dump(mode="json")
    with pytest.raises(ConfigError, match=r"texts: unlabeled needs data\.unlabeled"):
        validate_run({**tree, "data": {**tree["data"], "unlabeled": None}}, "run")
    task = {"kind": "masked_lm", "max_length": 24}
    data = {**tree["data"], "labels": [], "columns": {"text": "text"}}
    with pytest.raises(ConfigError, match="plays no part in masked_lm, which is a language model itself"):
        validate_run({**tree, "task": task, "data": data, "train": {}, "student": SMALL}, "run")
    with pytest.raises(
        (ConfigError, ValueError), match="replacement: mixed is for training without teachers"
    ):
        MaskedLM(replacement="mixed").check((), run.objective)


def test_a_checkpoint_without_a_mask_token_is_refused_before_a_worker_is_taken(tmp_path: Path) -> None:
    folder = save_masked_lm(tmp_path / "model")
    run = run_of(tmp_path, STAGE, model={"kind": "pretrained", "path": str(folder)})
    assert "pretrained first (masked_lm)" in check_teacher(teacher_of(run), run)
    for name in ("tokenizer_config.json", "special_tokens_map.json", "tokenizer.json"):
        if (folder / name).is_file():
            text = (folder / name).read_text(encoding="utf-8")
            (folder / name).write_text(text.replace('"mask_token"', '"no_token"'), encoding="utf-8")
    with pytest.raises(ModelError, match="has no mask token, and a masked language model is asked at one"):
        check_teacher(teacher_of(run), run)


def test_the_stage_reads_the_texts_that_the_teacher_may_see_and_no_label(tmp_path: Path) -> None:
    tree = run_of(tmp_path, STAGE).model_dump(mode="json")
    run = validate_run({**tree, "data": {**tree["data"], "leave_out_groups": ["food"]}}, "run")
    stage = make_pretraining_run(run, teacher_of(run))
    assert stage.plain and stage.data.labels == () and stage.data.leave_out_groups == ("food",)
    assert isinstance(stage.task, MaskedLM) and stage.task.replacement == "mixed"
    first, second = make_teacher_jobs(run)
    assert first.name == "teacher-t0-pretraining" and second.name == "teacher-t0"
    assert set(first.data[""].train.groups or ()) == {"hotel"}
    own = {**STAGE, "texts": "train", "objective": "masked_lm"}
    job, _ = make_teacher_jobs(run_of(tmp_path, own))
    assert all(text.startswith("train ") for text in job.data[""].train.texts)
    whole, _ = make_teacher_jobs(run_of(tmp_path, STAGE))
    assert len(whole.data[""].train) == 23, "the test text is left out"
    assert whole.data[""].left_out["unlabeled: also in validation or test"] == 1


@pytest.mark.parametrize(
    ("task", "key"), [("token_classification", "tokens"), ("question_answering", "context")]
)
def test_the_stage_reads_the_texts_of_rows_of_any_task(tmp_path: Path, task: str, key: str) -> None:
    def write(part: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        path = tmp_path / f"{part}.jsonl"
        path.write_text("".join(json.dumps({**row, "lang": "en"}) + "\n" for row in rows), encoding="utf-8")
        return {"kind": "files", "paths": [str(path)]}

    texts = [f"Anna met {name} in Paris" for name in ("Bert", "Carla", "Dora", "Emil")]
    words = [{"tokens": text.split(), "tags": ["B-PER", "O", "B-PER", "O", "O"]} for text in texts]
    asked = [
        {"question": "Who?", "context": text, "answers": {"text": ["Anna"], "answer_start": [0]}}
        for text in texts
    ]
    rows = words if key == "tokens" else asked
    parts = {"train": rows[:3], "validation": rows[3:], "test": rows[:1]}
    data = {part: write(part, own) for part, own in parts.items()}
    labels = {"labels": ["O", "B-PER", "I-PER"]} if key == "tokens" else {}
    tree = {
        "name": "run", "output": str(tmp_path / "runs"), "task": {"kind": task, "max_length": 24}, "train": SHORT,
        "data": {**data, **labels, "languages": ["en"]}, "student": SMALL, "objective": {"alpha": 1.0},
        "pretraining": {**STAGE, "texts": "train"},
    }  # fmt: skip
    tree["task"] |= {"stride": 4} if key == "context" else {}
    job = make_pretraining_job(validate_run(tree, "run"))
    assert list(job.data[""].train.texts) == texts[1:3], "a test text is left out"
    renamed = {part: write(part, [{"words" if k == key else k: v for k, v in row.items()} for row in own])
               for part, own in parts.items()}  # fmt: skip
    named = {"data": {**tree["data"], **renamed, "columns": {key: "words"}}}
    assert (
        list(make_pretraining_job(validate_run({**tree, **named}, "run")).data[""].train.texts) == texts[1:3]
    )


def test_the_stage_has_a_folder_of_its_own_that_its_content_names(tmp_path: Path) -> None:
    def folders(*stages: dict[str, Any] | None, **changes: Any) -> list[Path]:
        return [job.output for job in make_teacher_jobs(run_of(tmp_path, *stages, **changes))]

    shared, one, two = folders(STAGE, STAGE)
    assert (
        shared.name.startswith("pretraining-") and one.name.startswith("t0-") and two.name.startswith("t1-")
    )
    assert folders(STAGE, train={**SHORT, "steps": 5})[:2] == [shared, one], "another student changes nothing"
    assert folders({**STAGE, "share": 0.3})[0] != shared
    longer = {**STAGE, "train": {**SHORT, "steps": 4}}
    assert len({*folders(STAGE, longer)}) == 4, "another stage, and so another teacher"
    plain = make_teacher_jobs(run_of(tmp_path, None))
    assert len(plain) == 1 and plain[0].config.student.kind == "transformer"
    # A teacher that is there needs no stage, and the stage's own folder changes no name.
    shared.mkdir(parents=True)
    assert folders(STAGE, STAGE) == [shared, one, two]
    one.mkdir(parents=True)
    (one / "config.json").write_text("{}", encoding="utf-8")
    assert folders(STAGE) == [one]


@pytest.mark.parametrize(
    ("stage", "model", "head"),
    [(STAGE, SMALL, "cls.predictions"), ({**STAGE, "objective": "causal_lm"}, DECODER, "nothing stored")],
)
def test_the_teacher_starts_from_the_encoder_of_its_pretraining(
    stage: dict[str, Any], model: dict[str, Any], head: str, tmp_path: Path
) -> None:
    run = run_of(tmp_path, stage, model=model)
    first, second = make_teacher_jobs(run)
    assert find_pretraining(second, [first, second]) == first.output
    assert find_pretraining(first, [first, second]) is None
    train(first)
    assert "will be trained" in check_teacher(teacher_of(run), run) and compute_disk(run).teachers > 0
    before = models.load_model(first.output)
    assert before.task == stage.get("objective", "masked_lm")
    (part,) = second.tasks.values()
    started = make_task_model(part.config, fit_tokenizer(part.config.student, []))
    carried = before.model.base_model.state_dict()
    for name, weight in started.model.base_model.state_dict().items():
        assert "pooler" in name or torch.equal(weight, carried[name]), name
    assert started.tokenizer.get_vocab() == before.tokenizer.get_vocab()
    told = describe_handover(first.output, LABELS, part.config.task.head)
    assert head in told and f"carried over from {before.task}" in told and "begin at random" in told
    train(second)
    assert models.load_model(second.output).labels == tuple(LABELS)
    card = (second.output / "README.md").read_text(encoding="utf-8")
    assert told in card and first.output.name in card
    assert [job.name for job in make_teacher_jobs(run)] == ["teacher-t0"], "what is trained is found again"
    assert make_teacher_job(run, teacher_of(run)).is_done


def test_the_stages_of_a_run_follow_one_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = make_teacher_jobs(run_of(tmp_path, STAGE, None, STAGE))
    groups: list[list[str]] = []

    def fit_here(jobs: Sequence[Job], name: str, *others: object) -> None:
        groups.append([job.name for job in jobs])
        for job in jobs:
            train(job)

    said: list[str] = []
    progress: Any = SimpleNamespace(
        say=said.append, note=lambda *noted: said.append(str(noted)), expect=lambda *expected: None
    )
    folder: Any = None
    ready: Any = None
    monkeypatch.setattr("raykd.runs.stages.fit_group", fit_here)
    train_teachers(jobs, folder, progress, ready)
    # Two teachers share one stage; the one without has nothing to wait for.
    assert groups == [["teacher-t0-pretraining", "teacher-t1"], ["teacher-t0", "teacher-t2"]]
    assert [line.partition(":")[0] for line in said] == [
        "teacher-t0 starts from its pretraining", "teacher-t2 starts from its pretraining",
    ]  # fmt: skip
    assert "its head is thrown away (cls.predictions" in said[0]
    # Cut off between the stages: the first is kept, and the second goes on from it.
    shutil.rmtree(jobs[-1].output)
    groups.clear()
    train_teachers(make_teacher_jobs(run_of(tmp_path, STAGE, None, STAGE)), folder, progress, ready)
    assert groups == [["teacher-t2"]] and "kept from an earlier run" in "".join(said)


def test_adapters_are_of_the_task_and_the_stage_trains_all_weights(tmp_path: Path) -> None:
    folder = save_masked_lm(tmp_path / "model")
    tuned = {"kind": "pretrained", "path": str(folder), "dropout": 0.0, "tuning": {"kind": "head"}}
    run = run_of(tmp_path, STAGE, model=tuned)
    stage, task = make_pretraining_run(run, teacher_of(run)), make_teacher_run(run, teacher_of(run))
    assert isinstance(stage.student, models.PretrainedStudent) and stage.student.tuning is None
    assert isinstance(task.student, models.PretrainedStudent) and task.student.tuning is not None
    assert task.student.dropout == 0.0 and "pretraining-" in task.student.path


def test_a_short_copy_shortens_the_stage(tmp_path: Path) -> None:
    long = {**STAGE, "train": {**SHORT, "steps": 900, "evaluations": 9}}
    stage = teacher_of(shorten_run(run_of(tmp_path, long))).training.pretraining
    assert stage is not None and stage.train.steps == 4 and stage.train.evaluations == 2
