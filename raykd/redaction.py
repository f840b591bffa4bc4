"""What must never be printed, and how it is taken out of a text.

Decision record: secrets reach a text by three ways: inside a URI, as the value of a key that says so, and by being
repeated from the environment in somebody's exception. The first two are patterns; for the third every variable is
looked at whose name says that it is a secret, since which libraries read which variables changes with each of them.
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
"""Values that are no secrets whatever their variable is called: numbers, switches, paths of files with the secret."""
_HUB_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{8,}")
_KNOWN = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "HF_TOKEN", "RAY_AUTH_TOKEN")
"""Variables whose value is a secret whatever it looks like."""
_SHORTEST_SECRET = 6
"""Characters below which a secret of the environment is not searched for: it would hide ordinary words."""


def redact(text: object) -> str:
    """The text without ``user:password@`` of URIs, values of keys like token or api_key, tokens of the hub, and the
    values of all variables of the environment whose name says secret. Hides rather too much than too little."""
    clean = str(text)
    for value in _secrets_of_the_environment():
        clean = clean.replace(value, _HIDDEN)
    clean = _USER_INFO.sub(rf"\1{_HIDDEN}@", clean)
    clean = _HUB_TOKEN.sub(_HIDDEN, clean)
    clean = _AUTHORIZATION.sub(rf"\1{_HIDDEN}", clean)
    return _ASSIGNMENT.sub(rf"\1{_HIDDEN}", clean)


def _secrets_of_the_environment() -> list[str]:
    """Longest first, so that one which holds another is hidden whole."""
    found = [
        value
        for name, value in os.environ.items()
        if len(value) >= _SHORTEST_SECRET
        and (name in _KNOWN or (_SECRET_KEY.search(name) and not _HARMLESS.fullmatch(value)))
    ]
    return sorted(found, key=len, reverse=True)


def has_credentials(text: str) -> bool:
    """Whether a URI in it holds ``user:password@``."""
    return _CREDENTIALS.search(text) is not None


def is_secret_key(key: str) -> bool:
    """Whether a key's last part says that its value is a secret: ``hub.token``, not ``max_tokens``."""
    last = key.rsplit(".", 1)[-1].replace("-", "_")
    return bool(_SECRET_KEY.search(last.replace("_", " ")) or _SECRET_KEY.search(last))


def redact_value(key: str, value: object) -> str:
    """A parameter's value: hidden whole where the key names a secret (``hub.token``; not ``max_tokens``)."""
    return _HIDDEN if is_secret_key(key) else redact(value)


class RedactingFilter(logging.Filter):
    """Redacts every record that passes, arguments and traceback included; put it on a handler."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrites the record in place and lets it pass."""
        record.msg, record.args = redact(record.getMessage()), None
        if record.exc_info:
            record.exc_text = redact(logging.Formatter().formatException(record.exc_info))
        return True
