"""The plain teacher, the store, the wire and the coalescer: no Ray."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from raykd import models
from raykd.answers.source import AnswerSlots
from raykd.config import ActorConfig, ModelTeacher, TrainedTeacher
from raykd.distill.weightings.routing import ByLanguage
from raykd.errors import LabelMismatchError, ModelError, NonFiniteError, TeacherError
from raykd.tasks import Classification
from raykd.tasks.label_columns import map_label_columns
from raykd.teachers.actor import Coalescer
from raykd.teachers.backends.backend import BACKENDS
from raykd.teachers.backends.model import ModelBackend
from raykd.teachers.pools.own_pool import Placement, group_placements
from raykd.teachers.source import LocalSource, TeacherRouter
from raykd.teachers.spec import TeacherInfo, TeacherSpec
from raykd.teachers.store import make_text_key
from raykd.teachers.teacher import Teacher
from raykd.teachers.wire import GroupRequest
from raykd.text.padding import split_passes
from tests.fakes import (
    LABELS,
    answer_slots,
    encode_logits,
    logits_of,
    model_spec,
    save_transformer,
    text_batch,
    texts_and_labels,
)

TASK = Classification(max_length=64)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_transformer(tmp_path_factory.mktemp("models") / "teacher")


def spec(directory: Path, **changes: object) -> TeacherSpec:
    return model_spec(
        **{"name": "t", "path": str(directory), "labels": LABELS, "task": TASK, "dtype": "float32", **changes}
    )


def test_answers_are_the_models_logits_row_by_row(directory: Path) -> None:
    texts = texts_and_labels(20)[0]
    answer = Teacher(spec(directory, max_tokens=64)).answer(text_batch(texts))
    loaded = models.load_model(directory)
    loaded.model.eval()
    for i, text in enumerate(texts):
        encoded = loaded.tokenizer([text], truncation=True, max_length=64)
        with torch.no_grad():
            one = loaded.model(**{k: torch.tensor(v) for k, v in encoded.items()}).logits[0].numpy()
        np.testing.assert_allclose(logits_of(answer)[i], one, atol=1e-5)
    assert answer.answered_B.all() and answer.forwarded == 20


def test_teacher_is_frozen_and_in_eval_mode(directory: Path) -> None:
    teacher = Teacher(spec(directory))
    teacher.load()
    model = teacher.backend._model
    assert model is not None
    assert not model.model.training and not any(p.requires_grad for p in model.model.parameters())


def test_only_rows_of_its_languages_are_covered(directory: Path) -> None:
    batch = text_batch(["good", "bad", "fine"], ["en", "zh", "en"])
    answer = Teacher(spec(directory, languages=frozenset({"en"}))).answer(batch)
    assert answer.answered_B.tolist() == [True, False, True]
    assert (logits_of(answer)[1] == 0).all() and answer.forwarded == 2


def test_labels_are_mapped_by_name_not_by_position(tmp_path: Path, directory: Path) -> None:
    permuted = models.load_model(directory)
    permuted.model.config.id2label = {0: "pos", 1: "neg"}
    permuted.model.config.label2id = {"pos": 0, "neg": 1}
    weights = permuted.model.classifier
    weights.weight.data = weights.weight.data.flip(0)
    weights.bias.data = weights.bias.data.flip(0)
    models.save_model(replace(permuted, labels=("pos", "neg")), tmp_path / "p")
    batch = text_batch(texts_and_labels(8)[0])
    mapped = Teacher(spec(tmp_path / "p", label_map={"pos": "positive", "neg": "negative"})).answer(batch)
    np.testing.assert_allclose(
        logits_of(mapped), logits_of(Teacher(spec(directory)).answer(batch)), atol=1e-6
    )


def test_other_labels_are_refused_with_both_lists() -> None:
    with pytest.raises(LabelMismatchError) as error:
        map_label_columns(["good", "bad"], LABELS, {}, "zh")
    assert "teacher zh" in str(error.value) and "good" in str(error.value) and "positive" in str(error.value)
    with pytest.raises(LabelMismatchError):
        map_label_columns(["negative", "positive", "neutral"], LABELS, {}, "zh")
    assert map_label_columns(["positive", "negative"], LABELS, {}, "zh").columns == ((1,), (0,))


def test_non_finite_logits_name_teacher_and_rows(directory: Path) -> None:
    teacher = Teacher(spec(directory))
    teacher.load()
    teacher.backend._model.model.classifier.bias.data.fill_(float("nan"))  # type: ignore[union-attr]
    with pytest.raises(NonFiniteError, match="teacher t"):
        teacher.answer(text_batch(["good"]))


def test_passes_cover_every_row_once_within_the_cap() -> None:
    lengths = np.random.default_rng(0).integers(1, 60, size=200)
    passes = split_passes(lengths, 300)
    assert sorted(i for part in passes for i in part) == list(range(200))
    assert all(len(part) * max(lengths[part]) <= 300 for part in passes)
    assert split_passes(np.asarray([500]), 300) == [[0]]


def test_passes_are_padded_little_and_not_tiny() -> None:
    lengths = np.random.default_rng(1).integers(4, 128, size=96)
    passes = split_passes(lengths, 1 << 20)
    computed = sum(len(part) * int(max(lengths[part])) for part in passes)
    assert lengths.sum() / computed > 0.9 > lengths.sum() / (96 * lengths.max())
    assert all(len(part) >= 8 for part in passes[:-1])


def test_what_stands_by_imports_nothing_heavy_until_it_is_asked() -> None:
    code = (
        "import sys, raykd.teachers.parked_actor as p, raykd.cluster.mailbox;"
        "print(p.ParkedActor(b'').counters(), [m for m in ('torch', 'transformers', 'ray') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "{} []"


def test_store_serves_what_was_answered_without_a_forward(tmp_path: Path, directory: Path) -> None:
    batch = text_batch(texts_and_labels(10)[0])
    first = Teacher(spec(directory, store=str(tmp_path)))
    one = first.answer(batch)
    first.close()
    second = Teacher(spec(directory, store=str(tmp_path)))
    two = second.answer(batch)
    assert second.counters()["forwarded"] == 0 and two.forwarded == 0 and not second.loaded
    np.testing.assert_array_equal(logits_of(one), logits_of(two))


def test_a_teacher_opens_without_its_weights_in_memory(tmp_path: Path, directory: Path) -> None:
    teacher = Teacher(spec(directory, store=str(tmp_path)))
    info = teacher.open()
    assert teacher.counters()["loaded"] == 0 and (tmp_path / info.answers[:32] / "answers.sqlite").exists()
    assert info.parameters == models.count_parameters(models.load_model(directory).model)
    assert (info.fingerprint, info.dtype, info.max_length) == (models.fingerprint(directory), "float32", 64)
    teacher.answer(text_batch(["good"]))
    assert teacher.counters()["loaded"] == 1 and teacher.open() is info


def test_weights_that_are_cut_short_are_noticed_at_opening(tmp_path: Path) -> None:
    path = save_transformer(tmp_path / "t") / "model.safetensors"
    whole = path.read_bytes()
    for size in (len(whole) - 1, len(whole) // 2, 200, 4):
        path.write_bytes(whole[:size])
        with pytest.raises(ModelError, match=r"model\.safetensors"):
            Teacher(spec(tmp_path / "t")).open()


def test_other_labels_are_noticed_at_opening(directory: Path) -> None:
    with pytest.raises(LabelMismatchError, match="teacher t"):
        Teacher(spec(directory, labels=("good", "bad"))).open()


def test_a_hub_name_opens_and_answers(
    tmp_path: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the hub's cache, laid out as its client lays it out."""
    import huggingface_hub.constants

    commit = "a" * 40
    cached = tmp_path / "models--someone--reviews"
    (cached / "snapshots").mkdir(parents=True)
    shutil.copytree(directory, cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    teacher = Teacher(spec(Path("someone/reviews")))
    assert teacher.open().fingerprint == models.fingerprint(directory)
    batch = text_batch(["good food", "bad food"])
    np.testing.assert_array_equal(
        logits_of(teacher.answer(batch)), logits_of(Teacher(spec(directory)).answer(batch))
    )


def test_equal_texts_of_a_batch_are_computed_once(tmp_path: Path, directory: Path) -> None:
    answer = Teacher(spec(directory, store=str(tmp_path))).answer(text_batch(["good", "bad", "good"]))
    assert answer.forwarded == 2
    np.testing.assert_array_equal(logits_of(answer)[0], logits_of(answer)[2])
    assert (logits_of(answer)[1] != logits_of(answer)[0]).any()


def test_a_parked_teacher_answers_from_its_store_and_computes_only_where_it_did(
    tmp_path: Path, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = Teacher(spec(directory, store=str(tmp_path)))
    info = first.open()
    kept = first.answer(text_batch(["good"]))
    parked = Teacher(spec(directory, store=str(tmp_path), parked=info))
    assert parked.open() is info
    np.testing.assert_array_equal(logits_of(parked.answer(text_batch(["good"]))), logits_of(kept))
    assert not parked.loaded
    assert parked.answer(text_batch(["bad", "fine"])).forwarded == 2
    assert parked.counters()["computed_while_parked"] == 2 and "2 rows" in caplog.text
    of_gpu = Teacher(spec(directory, store=str(tmp_path), parked=replace(info, device="cuda")))
    with pytest.raises(TeacherError, match="parked"):
        of_gpu.answer(text_batch(["never seen"]))


def test_a_store_that_cannot_be_written_does_not_change_answers(tmp_path: Path, directory: Path) -> None:
    teacher = Teacher(spec(directory, store=str(tmp_path)))
    teacher.open()
    assert teacher._store is not None
    teacher._store._full = True
    for _ in range(2):
        answer = teacher.answer(text_batch(["good", "bad"]))
        np.testing.assert_array_equal(
            logits_of(answer), logits_of(Teacher(spec(directory)).answer(text_batch(["good", "bad"])))
        )
    assert teacher.counters()["unkept"] == 4


def test_store_of_other_settings_is_a_miss(tmp_path: Path, directory: Path) -> None:
    batch = text_batch(["good food"])
    Teacher(spec(directory, store=str(tmp_path))).answer(batch)
    for change in ({"max_length": 8}, {"dtype": "bfloat16"}, {"labels": LABELS[::-1]}):
        assert Teacher(spec(directory, store=str(tmp_path), **change)).answer(batch).forwarded == 1


def test_store_knows_the_length_that_the_teacher_was_trained_with(tmp_path: Path, directory: Path) -> None:
    batch = text_batch(["the room was very good and the food was very bad today"])
    Teacher(spec(directory, store=str(tmp_path / "s"))).answer(batch)
    shorter = models.load_model(directory)
    models.save_model(replace(shorter, max_length=4), tmp_path / "shorter")
    teacher = Teacher(spec(tmp_path / "shorter", store=str(tmp_path / "s")))
    assert teacher.answer(batch).forwarded == 1


def test_pairs_and_texts_have_keys_of_their_own() -> None:
    keys = {
        make_text_key("ab", None),
        make_text_key("a", "b"),
        make_text_key("b", "a"),
        make_text_key("ab", ""),
        make_text_key("", "ab"),
    }
    assert len(keys) == 5


def test_slots_take_replies_to_some_rows_and_keep_what_is_there() -> None:
    slots = AnswerSlots.empty("y", 4)
    slots.fill([2], encode_logits([[9, 9]]))
    slots.merge(answer_slots("y", [[4, 5], [6, 7]], [True, False], latency_s=0.25, forwarded=1), [0, 3])
    assert logits_of(slots).tolist() == [[4, 5], [0, 0], [9, 9], [0, 0]]
    assert slots.answered_B.tolist() == [True, False, True, False]
    assert (slots.latency_s, slots.forwarded) == (0.25, 1)
    both = AnswerSlots.concat([slots, slots])
    assert both.bodies == slots.bodies * 2 and (both.latency_s, both.forwarded) == (0.5, 2)


def test_router_asks_by_language_and_by_weighting() -> None:
    languages = (frozenset({"zh"}), frozenset({"en"}), None)
    batch = text_batch(["a", "b", "c"], ["zh", "en", "fr"])
    everyone = TeacherRouter(("zh", "en", "multi"), languages).route(batch)
    assert everyone.tolist() == [[True, False, False], [False, True, False], [True, True, True]]
    routed = TeacherRouter(("zh", "en", "multi"), languages, ByLanguage()).route(batch)
    assert routed.tolist() == [[True, False, False], [False, True, False], [False, False, True]]


def test_local_source_hides_gold_labels(directory: Path) -> None:
    seen = []
    teacher = Teacher(spec(directory))
    answer = teacher.answer
    teacher.answer = lambda batch, *rest: (seen.append(batch.labels_B.tolist()), answer(batch, *rest))[1]  # type: ignore[method-assign,assignment,return-value,func-returns-value]
    LocalSource([teacher]).submit(text_batch(["good", "bad"], labels=[1, 0])).result()
    assert seen == [[-100, -100]]


def test_groups_share_a_process_and_add_up() -> None:
    def place(name: str, **actor: object) -> Placement:
        return Placement(model_spec(name, "", LABELS, TASK), ActorConfig(**actor))

    groups = group_placements(
        [place("a", group="g", num_cpus=0.25), place("b", num_cpus=2), place("c", group="g", num_cpus=0.75)]
    )
    assert [(g.name, g.members, g.num_cpus, g.threads) for g in groups] == [
        ("g", (0, 2), 1.0, 1),
        ("teacher:b", (1,), 2.0, 2),
    ]


def test_coalescer_answers_small_waiting_requests_together() -> None:
    begun, gate, sizes = threading.Event(), threading.Event(), []

    def answer(request: GroupRequest) -> list[AnswerSlots]:
        begun.set()
        gate.wait(5)
        sizes.append(len(request.batch))
        return [answer_slots("t", [[float(text), -float(text)] for text in request.batch.texts])]

    coalescer = Coalescer(answer)
    results: dict[int, list[AnswerSlots]] = {}

    def ask(number: int, rows: int) -> None:
        texts = [str(number * 100 + i) for i in range(rows)]
        results[number] = coalescer.ask(GroupRequest(text_batch(texts), np.ones((1, rows), dtype=bool)))

    threads = []
    for number, rows in enumerate([32, 2, 3, 1, 32]):
        threads.append(threading.Thread(target=ask, args=(number, rows)))
        threads[-1].start()
        begun.wait(5)  # the first one does not wait with the others
        for _ in range(100):
            if len(coalescer._waiting) >= number:
                break
            threading.Event().wait(0.01)
    gate.set()
    for thread in threads:
        thread.join(5)
    assert sizes == [32, 6, 32]
    for number, rows in enumerate([32, 2, 3, 1, 32]):
        assert logits_of(results[number][0])[:, 0].tolist() == [number * 100.0 + i for i in range(rows)]


def test_merged_requests_share_latency_and_forwarded_rows() -> None:
    whole = answer_slots("t", np.zeros((6, 2)), latency_s=0.6, forwarded=6)
    parts = [whole.slice(0, 2), whole.slice(2, 5), whole.slice(5, 6)]
    assert [p.forwarded for p in parts] == [2, 3, 1] and [len(p) for p in parts] == [2, 3, 1]
    assert [p.latency_s for p in parts] == pytest.approx([0.2, 0.3, 0.1])


def test_coalescer_gives_the_error_to_everyone_and_goes_on() -> None:
    def answer(request: GroupRequest) -> list[AnswerSlots]:
        if request.batch.texts[0] == "bad":
            raise NonFiniteError("no")
        return [answer_slots("t", [[0.0, 0.0]])]

    coalescer = Coalescer(answer)
    with pytest.raises(NonFiniteError):
        coalescer.ask(GroupRequest(text_batch(["bad"]), np.ones((1, 1), dtype=bool)))
    assert coalescer.ask(GroupRequest(text_batch(["good"]), np.ones((1, 1), dtype=bool)))[0].answered_B.all()


def test_precision_is_bfloat16_only_where_it_was_measured_to_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    from raykd.teachers.backends import precision

    monkeypatch.setattr(precision, "read_cpu_flags", lambda: {"avx512_bf16"})
    for gain, expected in ((3.4, "bfloat16"), (1.2, "float32"), (0.53, "float32")):
        monkeypatch.setattr(precision, "find_bfloat16_gain", lambda gain=gain: gain)
        chosen = precision.choose_precision("auto", "bert", "cpu")
        assert chosen.name == expected and f"{gain:.1f} x" in chosen.reason
    monkeypatch.setattr(precision, "read_cpu_flags", set)
    assert precision.choose_precision("auto", "bert", "cpu").name == "float32"
    assert precision.choose_precision("bfloat16", "bert", "cpu").name == "bfloat16"
    assert precision.choose_precision("auto", "raykd_linear", "cuda:0").name == "float32"


def test_a_time_is_kept_beside_the_answers_and_counts_under_its_conditions(
    directory: Path, tmp_path: Path
) -> None:
    batch = text_batch(texts_and_labels(32)[0])
    first = Teacher(spec(directory, store=str(tmp_path)))
    assert first.measure_time(batch) is None, "a model is never loaded to be timed"
    first.answer(batch)
    counted = first.counters()
    took = first.measure_time(batch)
    assert took is not None and took.ms > 0 and (took.rows, took.device) == (32, "cpu") and not took.kept
    assert first.counters() == counted, "what is timed is no answer"
    first.close()
    again = Teacher(spec(directory, store=str(tmp_path)))
    again.answer(batch)
    assert not again.loaded and again.measure_time(batch) == replace(took, kept=True)
    assert again.measure_time(batch.take(range(31))) is None, "other texts"
    other = Teacher(spec(directory, store=str(tmp_path), max_length=9))
    assert other.measure_time(batch) is None, "another content has another time"
    (kept,) = tmp_path.glob("*/timing.json")
    whole = kept.read_text(encoding="utf-8")
    for damage in ("", "nan", "{}", "[1]", whole[:-9], whole.replace(f"{took.ms}", "-1.0"), "0.2"):
        kept.write_text(damage, encoding="utf-8")
        assert Teacher(spec(directory, store=str(tmp_path))).measure_time(batch) is None
    kept.write_text(whole.replace(f'"threads": {took.threads}', '"threads": 99'), encoding="utf-8")
    assert Teacher(spec(directory, store=str(tmp_path))).measure_time(batch) is None, "other threads"


def test_every_kind_of_teacher_has_a_backend() -> None:
    common = {"name": "t", "languages": "all"}
    teachers = [ModelTeacher(**common, path="x"), TrainedTeacher(**common)]
    assert all(teacher.build_served("folder").kind in BACKENDS for teacher in teachers)


def test_a_backend_of_another_kind_is_stored_and_counted_like_a_model(
    monkeypatch: pytest.MonkeyPatch, directory: Path, tmp_path: Path
) -> None:
    class Reversed(ModelBackend):
        """Answers as the model, and says that it is something else."""

        def describe(self) -> TeacherInfo:
            return replace(super().describe(), answers="another", dtype_reason="reversed")

    monkeypatch.setitem(BACKENDS, "model", Reversed)
    other = Teacher(spec(directory, store=str(tmp_path)))
    texts = texts_and_labels(6)[0]
    batch = text_batch([*texts, texts[0]])
    first, again = other.answer(batch), other.answer(batch)
    assert (first.forwarded, again.forwarded) == (len(set(texts)), 0)
    assert other.counters()["answered"] == 14 and other.open().dtype_reason == "reversed"
