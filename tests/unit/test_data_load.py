"""Loading: selection, nested draws, held-out texts, what is counted."""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raykd.config import DataConfig
from raykd.data.load import load_data
from raykd.data.overlap import normalize_text
from raykd.errors import DataError


def write(folder: Path, name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {"kind": "files", "paths": [name]}


def row(text: str, label: str = "a", lang: str = "en") -> dict[str, Any]:
    return {"text": text, "label": label, "lang": lang}


def world(folder: Path, **more: Any) -> DataConfig:
    """60 labelled rows of en (a third "b") and 30 of zh; 3 validation, 2 test, 5 unlabelled rows."""
    train = [row(f"en {i}", "b" if i % 3 == 0 else "a") for i in range(60)]
    train += [row(f"zh {i}", "ab"[i % 2], "zh") for i in range(30)]
    tree = {
        "train": write(folder, "train.jsonl", train),
        "validation": write(
            folder, "validation.jsonl", [row("Dev  One"), row("dev two"), row("dev zh", lang="zh")]
        ),
        "test": write(folder, "test.jsonl", [row("Caf\u00e9"), row("en 1")]),
        "unlabeled": write(
            folder, "unlabeled.jsonl", [row(t) for t in ("new", "dev one", "CAFE\u0301 ", "en 7", "newer")]
        ),
        "labels": ["a", "b"],
        "languages": ["en", "zh"],
        **more,
    }
    return DataConfig.model_validate(tree)


def test_everything_is_joined_and_kept_apart(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="raykd.data"):
        data = load_data(world(tmp_path), tmp_path)
    assert len(data.train) == 90 + 3 and int(data.train.labelled.sum()) == 90
    assert data.train.texts[90:] == ("new", "en 7", "newer")
    assert len(data.validation) == 3 and data.test is not None and len(data.test) == 2
    assert data.left_out == {
        "train: labelled and also in validation or test (kept)": 1,
        "unlabeled: also in validation or test": 2,
    }
    assert data.notes == tuple(
        f"data.{name} holds no row with the label b" for name in ("validation", "test")
    )
    assert "1 labelled training rows are also in validation or test (kept): train:2" in caplog.text
    assert "2 unlabelled rows are also in validation or test" in caplog.text


def test_normalised() -> None:
    assert normalize_text("  CAFE\u0301\n au  lait ") == normalize_text("caf\u00e9 au lait")
    assert normalize_text("Straße") == normalize_text("STRASSE")


def test_draws_are_nested_stratified_and_dropped_rows_stay_dropped(tmp_path: Path) -> None:
    small = load_data(world(tmp_path, labelled_per_language=9), tmp_path)
    large = load_data(world(tmp_path, labelled_per_language=30), tmp_path)

    def labelled(data: Any) -> list[tuple[str, str, int]]:
        rows = data.train.select(data.train.labelled)
        return list(zip(rows.texts, rows.languages, rows.labels_B.tolist(), strict=True))

    assert set(labelled(small)) < set(labelled(large))
    counts = Counter((language, label) for _, language, label in labelled(small))
    assert counts[("en", 0)] in (5, 6, 7) and counts[("en", 0)] + counts[("en", 1)] == 9
    assert counts[("zh", 0)] in (4, 5) and counts[("zh", 0)] + counts[("zh", 1)] == 9
    assert small.left_out["train: labelled rows beyond data.labelled_per_language, left out"] == 90 - 18
    assert len(small.train) == 18 + 3
    other = load_data(world(tmp_path, labelled_per_language=9, labelled_seed=1), tmp_path)
    assert set(labelled(other)) != set(labelled(small))
    one = load_data(
        world(tmp_path, labelled_per_language=9, select_languages=["zh"], unlabeled=None, test=None), tmp_path
    )
    assert set(labelled(one)) == {r for r in labelled(small) if r[1] == "zh"}


def test_fewer_labelled_rows_than_asked(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'zh' has fewer labelled[\s\S]*got: +30 rows[\s\S]*wanted: 40"):
        load_data(world(tmp_path, labelled_per_language=40), tmp_path)


def test_selected_languages(tmp_path: Path) -> None:
    data = load_data(world(tmp_path, select_languages=["en"]), tmp_path)
    assert set(data.train.languages) == {"en"} and len(data.validation) == 2
    assert data.left_out["train: of languages that are not selected"] == 30
    assert data.left_out["validation: of languages that are not selected"] == 1
    with pytest.raises(
        DataError, match=r"data.test holds no row[\s\S]*got: +languages \['en'\][\s\S]*\['zh'\]"
    ):
        load_data(world(tmp_path, select_languages=["zh"]), tmp_path)


def test_nothing_left(tmp_path: Path) -> None:
    config = world(tmp_path, unlabeled=write(tmp_path, "u.jsonl", [row("dev one")]))
    with pytest.raises(DataError, match=r"every text of data\.unlabeled is also in validation"):
        load_data(config, tmp_path)
    config = world(
        tmp_path, validation=write(tmp_path, "v.jsonl", [row("")]), on_bad_row="skip", max_bad_rows=1.0
    )
    with pytest.raises(DataError, match=r"data\.validation holds no good row"):
        load_data(config, tmp_path)


def test_skipped_rows_are_counted(tmp_path: Path) -> None:
    config = world(
        tmp_path,
        validation=write(tmp_path, "v.jsonl", [row("x"), row("")]),
        on_bad_row="skip",
        max_bad_rows=0.5,
    )
    assert load_data(config, tmp_path).left_out[f"validation: bad rows of {tmp_path / 'v.jsonl'}"] == 1


def test_fingerprint_changes_with_any_part(tmp_path: Path) -> None:
    first = load_data(world(tmp_path), tmp_path)
    assert first.fingerprint() == load_data(world(tmp_path), tmp_path).fingerprint()
    prints = {
        load_data(world(tmp_path, **change), tmp_path).fingerprint()
        for change in ({}, {"test": None}, {"unlabeled": None}, {"labelled_per_language": 10})
    }
    assert len(prints) == 4


def test_embedded_world_loads(tmp_path: Path) -> None:
    tree = {
        "train": {"kind": "embedded", "rows_per_language": 60},
        "validation": {"kind": "embedded", "split": "validation", "rows_per_language": 20},
        "unlabeled": {"kind": "embedded", "split": "unlabeled", "rows_per_language": 100},
        "labels": ["negative", "positive"],
        "languages": ["en", "fr", "zh"],
        "labelled_per_language": 30,
    }
    data = load_data(DataConfig.model_validate(tree), tmp_path)
    assert data.train.summary()["labelled"] == 90 and data.train.summary()["unlabelled"] == 300
    assert list(data.left_out.values()) == [90]
    assert np.isin(data.validation.labels_B, [0, 1]).all()
