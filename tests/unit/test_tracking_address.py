"""Which URIs are taken, and that no secret comes out of any message."""

import logging
import pickle
from pathlib import Path

import pytest

from raykd.config import TrackingConfig
from raykd.errors import TrackingError
from raykd.keys import make_mlflow_key
from raykd.redaction import RedactingFilter, redact, redact_value
from raykd.tracking import resolve_tracking_uri

CANARY = "s3cr3tCANARY"


@pytest.fixture(autouse=True)
def no_uri(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.mark.parametrize(
    "text",
    [
        f"API request to http://user:{CANARY}@host:5000/api failed",
        f"https://{CANARY}@github.com/x",
        f"postgresql+psycopg2://u:{CANARY}@db/mlflow",
        f"http://u:a/{CANARY}@host",
        f"token={CANARY}",
        f"password: {CANARY}",
        f'{{"api_key": "{CANARY}"}}',
        f"{{'hub.access-key': '{CANARY} with spaces'}}",
        f"MLFLOW_TRACKING_PASSWORD={CANARY} raykd train",
        f"Authorization: Bearer {CANARY}",
        f"headers={{'authorization': 'Basic {CANARY}'}}",
        f"https://host/path?a=1&secret={CANARY}&b=2",
    ],
)
def test_a_secret_is_hidden(text):
    assert CANARY not in redact(text)
    assert "***" in redact(text)


@pytest.mark.parametrize(
    "text",
    [
        "max_tokens=8192",
        "tokenizer: bert",
        "pad_token_id=0",
        "sqlite:////runs/mlflow.db",
        "http://host:5000/x",
        "a@b",
    ],
)
def test_what_is_no_secret_stays(text):
    assert redact(text) == text


def test_secrets_of_the_environment_are_hidden_wherever_they_stand(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", CANARY)
    assert redact(f"odd text with {CANARY}!") == "odd text with ***!"


def test_values_of_secret_keys_are_hidden_whole():
    assert redact_value("hub.token", CANARY) == "***"
    assert redact_value("api-key", CANARY) == "***"
    assert redact_value("hub_token", CANARY) == "***"
    assert redact_value("serving.max_tokens", 8192) == "8192"
    assert redact_value("student.tokenizer", "wordpiece") == "wordpiece"


def test_the_logging_filter_hides_arguments_and_tracebacks(caplog):
    logger = logging.getLogger("raykd.test_redaction")
    caplog.handler.addFilter(RedactingFilter())
    try:
        raise ValueError(f"http://u:{CANARY}@h")
    except ValueError:
        logger.warning("cannot reach %s", f"http://u:{CANARY}@h", exc_info=True)
    assert CANARY not in caplog.text
    assert "cannot reach http://***@h" in caplog.text


@pytest.mark.parametrize(
    "uri", [f"http://user:{CANARY}@host:5000", f"https://{CANARY}@host", f"mysql://u:{CANARY}@h/d"]
)
@pytest.mark.parametrize("by_environment", [False, True])
def test_credentials_in_a_uri_are_refused_without_being_shown(uri, by_environment, monkeypatch, tmp_path):
    if by_environment:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(TrackingError) as caught:
        resolve_tracking_uri(TrackingConfig(uri=None if by_environment else uri), tmp_path)
    message = str(pickle.loads(pickle.dumps(caught.value)))
    assert CANARY not in message + repr(caught.value)
    assert "MLFLOW_TRACKING_USERNAME" in message
    assert ("MLFLOW_TRACKING_URI" if by_environment else "tracking.uri") in message


@pytest.mark.parametrize(
    "uri", ["file:///tmp/mlruns", "mlruns", "./mlruns", "/tmp/mlruns", "s3://bucket/x", "sqlite://"]
)
def test_stores_that_do_not_work_are_refused(uri, tmp_path):
    with pytest.raises(TrackingError, match=r"sqlite:///|database file"):
        resolve_tracking_uri(TrackingConfig(uri=uri), tmp_path)


def test_the_uri_is_always_explicit(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("mlruns").mkdir()  # mlflow itself would take this one
    assert resolve_tracking_uri(TrackingConfig(), Path("runs")) == f"sqlite:///{tmp_path}/runs/mlflow.db"
    assert (
        resolve_tracking_uri(TrackingConfig(uri="sqlite:///x/m.db"), tmp_path)
        == f"sqlite:///{tmp_path}/x/m.db"
    )
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert resolve_tracking_uri(TrackingConfig(), tmp_path) == "http://mlflow:5000"
    assert resolve_tracking_uri(TrackingConfig(uri="https://other"), tmp_path) == "https://other"


@pytest.mark.parametrize(
    ("key", "clean"),
    [
        ("train/soft/forward_kl", "train/soft/forward_kl"),
        ("eval/zh-Hans/accuracy", "eval/zh-Hans/accuracy"),
        ("eval/中文/f1", "eval/中文/f1"),
        ("a b.c:d", "a b.c:d"),
        ("a..b", "a..b"),
    ],
)
def test_a_plain_name_stays_as_it_is(key, clean):
    assert make_mlflow_key(key) == clean


@pytest.mark.parametrize(
    ("key", "begins"),
    [
        ("a?b#c", "a_b_c-"),
        ("../../etc", "etc-"),
        ("/abs//x/", "abs/x-"),
        ("", "_-"),
        ("k" * 300, "k" * 241 + "-"),
    ],
)
def test_any_other_name_is_cleaned_and_marked(key, begins):
    assert make_mlflow_key(key).startswith(begins) and len(make_mlflow_key(key)) == len(begins) + 8
