"""Remove secrets from texts before they are printed or stored.

Decision record: secrets enter a text in three ways: inside a URI, as the value of a key that names a secret, and from
the environment, repeated in an exception. The first two are found by patterns. For the third, every variable whose
name says secret is searched for, because libraries differ in the variables that they read.
"""

from __future__ import annotations

import logging
import os
import re

_HIDDEN = "***"
_SECRET = r"(?:token|password|passwd|pwd|secret|api[_-]?key|access[_-]?key|private[_-]?key|credentials?)"
_SECRET_KEY = re.compile(rf"(?:^|[._/\s-]){_SECRET}$", re.IGNORECASE)
_USER_INFO = re.compile(r"(://)(?!/)[^\s\"'<>]*@")
_ASSIGNMENT = re.compile(
    rf"(?<![A-Za-z])((?:[A-Za-z0-9]+[_-])*{_SECRET}[\"']?\s*[=:]\s*)(\"[^\"\n]*\"|'[^'\n]*'|[^\s\"'&,;}}\]]+)",
    re.IGNORECASE,
)
_AUTHORIZATION = re.compile(
    r"(authorization[\"']?\s*[=:]\s*[\"']?(?:(?:bearer|basic)\s+)?|bearer\s+)[^\s\"',;]+", re.IGNORECASE
)
_CREDENTIALS = re.compile(r"://[^/\s\"'<>:@]*:[^/\s\"'<>@]+@")
_HARMLESS = re.compile(r"[0-9.]+|true|false|enabled|disabled|optional|/.*", re.IGNORECASE)
"""Matches values that are never secrets: numbers, switches, paths of files that hold a secret."""
_HUB_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{8,}")
_KNOWN = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "HF_TOKEN", "RAY_AUTH_TOKEN")
"""Variables whose value is always a secret."""
_SHORTEST_SECRET = 6
"""Least characters of a secret that is searched for. Shorter ones would hide ordinary words."""


def redact(text: object) -> str:
    """Return a text without secrets. Hides too much rather than too little.

    Secrets are ``user:password@`` in URIs, values of keys such as token or api_key, tokens of the hub, and values of
    environment variables whose name says secret.
    """
    clean = str(text)
    for value in _secrets_of_the_environment():
        clean = clean.replace(value, _HIDDEN)
    clean = _USER_INFO.sub(rf"\1{_HIDDEN}@", clean)
    clean = _HUB_TOKEN.sub(_HIDDEN, clean)
    clean = _AUTHORIZATION.sub(rf"\1{_HIDDEN}", clean)
    return _ASSIGNMENT.sub(rf"\1{_HIDDEN}", clean)


def _secrets_of_the_environment() -> list[str]:
    """Return secrets of the environment, longest first, so that one that contains another is hidden whole."""
    found = [
        value
        for name, value in os.environ.items()
        if len(value) >= _SHORTEST_SECRET
        and (name in _KNOWN or (_SECRET_KEY.search(name) and not _HARMLESS.fullmatch(value)))
    ]
    return sorted(found, key=len, reverse=True)


def has_credentials(text: str) -> bool:
    """Return whether a URI in a text holds ``user:password@``."""
    return _CREDENTIALS.search(text) is not None


def is_secret_key(key: str) -> bool:
    """Return whether a key's last part names a secret: ``hub.token``, not ``max_tokens``."""
    last = key.rsplit(".", 1)[-1].replace("-", "_")
    return bool(_SECRET_KEY.search(last.replace("_", " ")) or _SECRET_KEY.search(last))


def redact_value(key: str, value: object) -> str:
    """Return a parameter's value without secrets. It is hidden whole if the key names a secret."""
    return _HIDDEN if is_secret_key(key) else redact(value)


class RedactingFilter(logging.Filter):
    """Removes secrets from every log record, its arguments and traceback. Belongs on a handler."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite the record in place and let it pass."""
        record.msg, record.args = redact(record.getMessage()), None
        if record.exc_info:
            record.exc_text = redact(logging.Formatter().formatException(record.exc_info))
        return True
