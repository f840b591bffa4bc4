"""Define `HttpTeacher`: a language model behind an OpenAI-compatible server."""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from raykd.config.kinds.label_words import LabelWords, Words
from raykd.config.teachers import ActorConfig, TeacherBase, register_teacher
from raykd.redaction import is_secret_key
from raykd.spec import Spec


class Budget(Spec):
    """What a teacher's answers may cost in all. What is stored costs nothing again."""

    tokens: int | None = Field(None, ge=1)
    """Tokens read and written."""
    money: float | None = Field(None, gt=0.0)
    """In the currency of `price`, which then has to name `per_million_tokens`."""


@register_teacher
class HttpTeacher(LabelWords, TeacherBase):
    """A language model behind an OpenAI-compatible server: vLLM, SGLang, llama.cpp, a provider. With `template` and
    `words` it is read as a classifier, as a teacher of `kind: label_words` is; without, it teaches causal_lm."""

    kind: Literal["http"] = "http"
    url: str
    """Address of its API, as clients of OpenAI take it: `http://127.0.0.1:8000/v1`. TLS certificates are verified, a
    redirect is refused, and the proxies of the environment are used."""
    model_name: str | None = None
    """Name of the model, as the server lists it; None takes the only one that it lists."""
    tokenizer: str | None = None
    """Folder or hub name of the model's tokenizer. A language task needs it, because answers are over its tokens; it
    is compared with the tokens of the server's replies."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the key, for example `OPENAI_API_KEY`. It has to be set wherever
    teachers run. The key itself stands in no file."""
    version: str | None = None
    """Names its stored answers: another version answers anew. None takes what the server says of itself (name, root
    and owner of the model, `system_fingerprint`), and a server that says something else ends the run."""
    concurrency: int = Field(8, ge=1)
    """Requests under way at a time, in each replica."""
    timeout_s: float = Field(60.0, gt=0.0)
    """Longest wait for one reply."""
    retry_s: float = Field(120.0, ge=0.0)
    """How long a request is repeated after time-outs, refused connections, answers of 429 or 5xx, and replies that
    cannot be read. Pauses double, with jitter; `Retry-After` is followed."""
    template: str | dict[str, str] = ""
    """As of `kind: label_words`."""
    words: dict[str, Words | dict[str, Words]] = {}
    """As of `kind: label_words`."""
    budget: Budget = Budget()
    """What its answers may cost in all (`{tokens: 5000000}` or `{money: 20}`), over all runs that share the store. A
    run stops before it would spend more, and what it has is stored."""
    actor: ActorConfig = ActorConfig(num_cpus=0.0)

    @field_validator("template")
    @classmethod
    def _places(cls, value: str | dict[str, str]) -> str | dict[str, str]:
        return super()._places(value) if value else value

    @field_validator("words")
    @classmethod
    def _whole(cls, value: dict[str, Words | dict[str, Words]]) -> dict[str, Words | dict[str, Words]]:
        return super()._whole(value) if value else value

    @field_validator("url")
    @classmethod
    def _address(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("wanted an address such as http://127.0.0.1:8000/v1")
        return value.rstrip("/")

    @field_validator("api_key_env")
    @classmethod
    def _variable(cls, value: str | None) -> str | None:
        if value is not None and not is_secret_key(value):
            # Values of such variables are removed from every message and record (`raykd.redaction`).
            raise ValueError("wanted the name of a variable, which ends with API_KEY, TOKEN or SECRET")
        return value

    @model_validator(mode="after")
    def _whole_phrase(self) -> HttpTeacher:
        if bool(self.template) != bool(self.words):
            raise ValueError(
                "template and words go together: write both to classify, neither for a language task"
            )
        return self

    @model_validator(mode="after")
    def _priced(self) -> HttpTeacher:
        if self.budget.money is not None and (self.price is None or self.price.per_million_tokens is None):
            raise ValueError("budget.money needs price: {per_million_tokens: ...}")
        return self

    @property
    def most_tokens(self) -> int | None:
        """Tokens that the budget allows; None for any number."""
        most = [self.budget.tokens] if self.budget.tokens is not None else []
        if self.budget.money is not None and self.price is not None and self.price.per_million_tokens:
            most.append(int(self.budget.money / self.price.per_million_tokens * 1e6))
        return min(most, default=None)
