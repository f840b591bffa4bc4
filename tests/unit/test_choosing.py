"""Rows for a person to label: how disagreement is measured, which rows are taken, and the file that comes back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon

from raykd.config import RunConfig
from raykd.data.load import load_data
from raykd.data.rows import Rows
from raykd.distill.signals import UNLABELLED, Signals
from raykd.ensemble.disagreement import measure_disagreement
from raykd.errors import ConfigError, DataError
from raykd.runs.answer_files import make_target
from raykd.scoring.ensembles.choosing import Choice, choose_disputed_rows, measure_rows, write_choice
from tests.fakes import FixedSource
from tests.worlds import rows, run_config


def signals_of(logits_MNC: torch.Tensor, covered_MN: torch.Tensor) -> Signals:
    names = tuple(f"t{m}" for m in range(len(logits_MNC)))
    labels_N = torch.full((logits_MNC.shape[1],), UNLABELLED)
    languages = ("en",) * logits_MNC.shape[1]
    return Signals(names, (None,) * len(names), logits_MNC, covered_MN, labels_N, languages)


def unlabelled(count: int = 60) -> Rows:
    return rows(count, 3, uncovered=False).without_labels()  # type: ignore[return-value]


# the measure --------------------------------------------------------------------------------------------------------


def test_disagreement_is_the_jensen_shannon_divergence_of_those_that_cover_a_unit() -> None:
    torch.manual_seed(0)
    logits_MNC = torch.randn(2, 50, 4) * 3
    nats_N, teachers_N = measure_disagreement(signals_of(logits_MNC, torch.ones(2, 50, dtype=torch.bool)))
    p_MNC = logits_MNC.double().softmax(-1).numpy()
    expected = [jensenshannon(p_MNC[0, n], p_MNC[1, n]) ** 2 for n in range(50)]
    np.testing.assert_allclose(nats_N.numpy(), expected, atol=1e-6)
    assert teachers_N.tolist() == [2] * 50
    covered_MN = torch.ones(3, 50, dtype=torch.bool)
    covered_MN[2] = False
    third = torch.cat([logits_MNC, torch.full((1, 50, 4), 7.0)])
    assert torch.allclose(measure_disagreement(signals_of(third, covered_MN))[0], nats_N)


def test_it_is_0_where_all_say_the_same_and_largest_where_each_is_sure_of_another_label() -> None:
    same = torch.tensor([[[0.3, -1.0, 2.0], [0.0, 0.0, 0.0]]]).repeat(3, 1, 1)
    covered = torch.ones(3, 2, dtype=torch.bool)
    assert measure_disagreement(signals_of(same, covered))[0].abs().max() < 1e-6
    sure = 60.0 * torch.eye(3)[:, None, :]
    nats_N, _ = measure_disagreement(signals_of(sure, covered[:, :1]))
    assert float(nats_N[0]) == pytest.approx(np.log(3))


# the choice -------------------------------------------------------------------------------------------------------


def test_each_language_has_its_share_of_the_most_disputed_rows() -> None:
    own = unlabelled(90)
    nats_B = np.random.default_rng(0).random(90)
    nats_B[own.is_in_language("zh")] *= 0.01  # never disputed as much as the others
    picked = choose_disputed_rows(own, nats_B, 30)
    for language in ("en", "zh"):
        members = np.flatnonzero(own.is_in_language(language))
        expected = 30 * len(members) / 90
        mine = [i for i in picked.tolist() if own.languages[i] == language]
        assert abs(len(mine) - expected) < 1.0
        assert set(mine) == set(members[np.argsort(-nats_B[members])][: len(mine)].tolist())
    assert len(picked) == 30 and list(nats_B[picked]) == sorted(nats_B[picked], reverse=True)


def test_equal_texts_count_once_and_rows_of_one_teacher_are_never_chosen() -> None:
    own = unlabelled(20)
    nats_B = np.linspace(1.0, 0.1, 20)
    nats_B[3] = np.nan
    twice = Rows.concat([own, own])
    picked = choose_disputed_rows(twice, np.concatenate([nats_B, nats_B]), 100)
    texts = [twice.texts[i] for i in picked]
    assert len(texts) == len(set(texts)) and own.texts[3] not in texts
    assert set(texts) == {text for i, text in enumerate(own.texts) if i != 3}


# the file ------------------------------------------------------------------------------------------------------------


def run_of(folder: Path, **columns: str) -> RunConfig:
    config = run_config()
    data = {**config.data.model_dump(), "columns": {"id": "id", **columns}}
    return RunConfig.model_validate({**config.model_dump(), "data": data, "output": str(folder)})


def source_of(*languages: frozenset[str] | None) -> FixedSource:
    return FixedSource([f"t{i}" for i in range(len(languages))], list(languages))


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_the_filled_file_is_a_source_of_the_next_run(tmp_path: Path, ending: str) -> None:
    config = run_of(tmp_path, text="review", label="mood", language="lang")
    path = tmp_path / f"chosen.{ending}"
    own = unlabelled(40)
    told = write_choice(
        config, own, source_of(None, frozenset(["en"])), Choice(8, path), lambda done, of: None
    )
    assert "8 of 40" in told and "column mood" in told and "zh" not in told.split("(")[1].split(")")[0]
    written = path.read_text(encoding="utf-8")
    filled = written.replace('"mood": null', '"mood": "positive"').replace(",,en,", ",positive,en,")
    path.write_text(filled, encoding="utf-8")
    source: Any = {"kind": "files", "paths": [str(path)]}
    data = config.data.model_copy(update={"train": type(config.data.train).model_validate(source)})
    data = data.model_copy(update={"validation": data.train})
    train = load_data(data, tmp_path).train
    assert len(train) == 8 and set(train.labels_B.tolist()) == {1} and set(train.languages) == {"en"}
    assert set(train.texts) <= set(own.texts)


def test_tagged_rows_are_written_as_tokens_with_the_mean_over_their_words(tmp_path: Path) -> None:
    tree = run_of(tmp_path).model_dump()
    tree |= {"task": {"kind": "token_classification"}, "train": {**tree["train"], "metric": None}}
    tree["data"] |= {"labels": ["O", "B-PER", "I-PER"]}
    config = RunConfig.model_validate(tree)
    text = "Anna saw Rome"
    spans = ((0, 4), (5, 8), (9, 13))
    columns = {**vars(rows_of(text)), "words": (spans,), "golds": ((),)}
    own = Rows(**columns)

    class Words(FixedSource):
        def submit(self, batch: Any) -> Any:
            from raykd.answers.answer import DenseAnswer
            from raykd.answers.codec import encode_answer
            from raykd.answers.source import AnswerSlots
            from raykd.teachers.source import ReadyBatch

            said = []
            for m in range(2):
                logits = np.zeros((3, 3), dtype=np.float32)
                logits[0, m] = 50.0  # they dispute the first word alone
                said.append(
                    AnswerSlots(
                        f"t{m}", [encode_answer(DenseAnswer(logits_NC=logits, covered_N=np.ones(3, bool)))]
                    )
                )
            return ReadyBatch(said)

    path = tmp_path / "tags.jsonl"
    write_choice(config, own, Words(["t0", "t1"], [None, None], 3), Choice(5, path), lambda done, of: None)
    (record,) = [json.loads(line) for line in path.read_text().splitlines()]
    assert record["tokens"] == ["Anna", "saw", "Rome"] and record["tags"] is None
    assert record["disagreement"] == pytest.approx(np.log(2) / 3, abs=1e-4)


def rows_of(text: str) -> Rows:
    return Rows(("r",), (text,), ("en",), np.full(1, UNLABELLED, dtype=np.int64), modes=("split",))


def test_what_cannot_be_chosen_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="where chosen rows go"):
        make_target(None, choose=3)
    with pytest.raises(ConfigError, match="one file cannot hold"):
        make_target("rows.csv", ensemble=True, choose=3)
    assert make_target("rows.csv", choose=3) == Choice(3, Path("rows.csv"))
    config = run_of(tmp_path)
    (tmp_path / "there.csv").write_text("x")
    for path in ("there.csv", "rows.parquet"):
        with pytest.raises(ConfigError, match="--to cannot take"):
            Choice(3, tmp_path / path).check([config])
    ranking = replace_task(config)
    with pytest.raises(ConfigError, match="one task: classification"):
        Choice(3, tmp_path / "new.csv").check([ranking])
    alone = measure_rows(config, unlabelled(10), source_of(None), lambda done, of: None)
    assert np.isnan(alone.nats_B).all()
    with pytest.raises(DataError, match="no row that two teachers answer"):
        write_choice(
            config, unlabelled(10), source_of(None), Choice(3, tmp_path / "n.csv"), lambda done, of: None
        )


def replace_task(config: RunConfig) -> RunConfig:
    tree = config.model_dump()
    tree["task"], tree["train"]["metric"] = {"kind": "multi_label"}, None
    return RunConfig.model_validate(tree)
