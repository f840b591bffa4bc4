"""Find out what a server is and what it can give, once, and remember it.

Decision record:

- A run whose answers are all stored asks no server. So what a server said of itself, which names the store, is
  remembered in the user's cache folder, and asked again where an answer is missing, and by `raykd check`.
- What a server says of itself is weak: a name, a root, an owner, sometimes a `system_fingerprint`. Weights that are
  exchanged under one name are not seen; `version` is for that. Numbers that change with every start (`created`,
  permissions) are left out.
- How log-probabilities of given text are asked for is found by trying, most exact first. The try is a short text that
  the server itself continues greedily: each token of the continuation must be the likeliest at its place. So a reply
  that is shifted by a token, as some servers give, is refused, which no loss curve shows.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from raykd.config import HttpTeacher
from raykd.errors import ModelError, TeacherError
from raykd.parse import JsonObject
from raykd.teachers.backends.http.client import HttpClient, RequestRefusedError
from raykd.teachers.backends.http.replies import (
    TokenNames,
    TokenScores,
    TokensDifferError,
    UnreadableReplyError,
    read_echo,
    read_prompt_logprobs,
)

Scoring = Literal["prompt_logprobs", "echo", "echo_text", "none"]
"""How a server gives log-probabilities of given tokens: vLLM's way; an echo of tokens, or of text; not at all."""
WAYS: tuple[Scoring, ...] = ("prompt_logprobs", "echo", "echo_text")
_SAID = ("id", "root", "owned_by", "meta")
"""What an entry of `/models` says of the weights."""
TRIED = "The quick brown fox jumps over the lazy dog. One, two, three, four,"
"""What a server is asked to continue, and to score with its continuation."""
_CONTINUED = 16
"""Tokens that a server continues the text with."""
_LEAST_LIKELIEST = 0.5
"""Share of the continuation that must be the likeliest at its place; text that is cut anew differs a bit."""

log = logging.getLogger("raykd.teachers")


@dataclass(frozen=True)
class ServerFacts:
    """What a server said of itself, and what it can give. Kept in the cache folder as JSON.

    Attributes:
        model: Name of the model that is asked.
        said: What names its answers.
        context: Most tokens that it takes; None is not known.
        scoring: How log-probabilities of given tokens are asked for.
        refused: What it answered to the other ways, for people.
    """

    model: str
    said: dict[str, str] = field(default_factory=dict)
    context: int | None = None
    scoring: Scoring = "none"
    refused: str = ""


def ask_models(client: HttpClient, teacher: HttpTeacher, *, patient: bool) -> ServerFacts:
    """Ask a server for its models; it may have no such list where the run file names the model.

    Raises:
        ModelError: It has not the model, or several and none is named.
        TeacherError: It does not answer.
    """
    key = f"teachers.{teacher.name}.model_name"
    try:
        listed = client.get("/models", patient=patient).get("data")
    except RequestRefusedError:
        if teacher.model_name is None:
            raise
        return ServerFacts(teacher.model_name)
    entries = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    by_name = {str(entry.get("id")): entry for entry in entries}
    name = teacher.model_name or (next(iter(by_name)) if len(by_name) == 1 else None)
    if name is None or name not in by_name:
        raise ModelError(
            f"teacher {teacher.name}: the server {'has no such model' if name else 'has several models, or none'}",
            got=name or f"no {key}",
            wanted=f"one of {sorted(by_name)[:20]}",
            next_step=f"write {key}",
        )
    entry = by_name[name]
    context = entry.get("max_model_len")
    return ServerFacts(
        name,
        {key: str(entry[key]) for key in _SAID if entry.get(key) is not None},
        context if isinstance(context, int) and context > 0 else None,
    )


class TokenScorer:
    """Asks for the log-probabilities of given tokens.

    Args:
        client: Of the server.
        facts: The model's name, and the way.
        names: The texts of its tokens.
        marks: Special tokens.
        k: Entries per token.
        decode: Returns the text of tokens.
    """

    def __init__(
        self,
        client: HttpClient,
        facts: ServerFacts,
        names: TokenNames,
        marks: frozenset[int],
        k: int,
        decode: Callable[[Sequence[int]], str],
    ) -> None:
        self._client, self._facts, self._names = client, facts, names
        self._marks, self._k, self._decode = marks, k, decode

    def score(
        self, tokens: Sequence[int], way: Scoring, *, patient: bool = True
    ) -> tuple[list[TokenScores | None], JsonObject]:
        """Return what the model says at each token, and the whole reply.

        Raises:
            TokensDifferError, UnreadableReplyError: As the readers of `raykd.teachers.backends.http.replies`.
            RaykdError: As `HttpClient.post`.
        """
        # One token has to be generated: a number of 0 is refused by some servers and means no limit to others.
        body: JsonObject = {"model": self._facts.model, "max_tokens": 1, "temperature": 0.0}
        body["prompt"] = self._decode(tokens) if way == "echo_text" else list(tokens)
        body |= (
            {"prompt_logprobs": self._k} if way == "prompt_logprobs" else {"echo": True, "logprobs": self._k}
        )
        reply = self._client.post("/completions", body, patient=patient)
        if way == "prompt_logprobs":
            return read_prompt_logprobs(reply, tokens, self._k, self._names), reply
        marks = self._marks if way == "echo_text" else ()
        return read_echo(reply, tokens, self._k, self._names, marks), reply


def find_scoring(
    client: HttpClient, scorer: TokenScorer, facts: ServerFacts, encode: Callable[[str], list[int]], who: str
) -> tuple[Scoring, str, str]:
    """Find out how a server gives log-probabilities of given tokens.

    Args:
        client: Of the server.
        scorer: Asks it.
        facts: The model's name.
        encode: Cuts a text into tokens, as the tokenizer of the run file does.
        who: The teacher and its tokenizer, for messages.

    Returns:
        The way; its `system_fingerprint`, "" without one; what it answered to the other ways.

    Raises:
        ModelError: Its tokens are others, or its numbers are not those of its own continuation.
        TeacherError: It does not answer.
    """
    body = {"model": facts.model, "prompt": TRIED, "max_tokens": _CONTINUED, "temperature": 0.0}
    reply = client.post("/completions", body, patient=False)
    stamp = str(reply.get("system_fingerprint") or "")
    begin = encode(TRIED)
    tokens = encode(TRIED + read_completion(reply))
    refused: list[str] = []
    differing: TokensDifferError | None = None
    for way in WAYS:
        try:
            scores, _ = scorer.score(tokens, way, patient=False)
        except TokensDifferError as error:
            differing = differing or error
            refused.append(f"{way}: other tokens: {error}")
        except UnreadableReplyError as error:
            refused.append(f"{way}: {error}")
        except (
            TeacherError
        ) as error:  # some answer 500 to what they do not understand, and it did answer before
            refused.append(f"{way}: {str(error.got)[:200]}")
        else:
            # A text that is cut into other tokens than were written is judged at none of them.
            whole = len(tokens) - len(begin) == count_written(reply)
            _check_places(scores, tokens, len(begin) if whole else len(tokens), who, way)
            return way, stamp, "; ".join(refused)
    if differing is not None:
        raise ModelError(
            f"{who}: the server cuts texts into other tokens",
            got=str(differing),
            wanted="the tokenizer of the model that is served",
            next_step="name its folder or hub name as tokenizer; see also " + "; ".join(refused),
        )
    return "none", stamp, "; ".join(refused)


def count_written(reply: JsonObject) -> int:
    """Return how many tokens a completion says that it wrote; those that were asked for where it does not say."""
    usage = reply.get("usage")
    found = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return found if isinstance(found, int) else _CONTINUED


def read_completion(reply: JsonObject) -> str:
    """Return the text that a completion wrote.

    Raises:
        ModelError: It wrote none.
    """
    try:
        return str(reply["choices"][0]["text"])
    except (KeyError, IndexError, TypeError):
        raise ModelError(
            "a reply to a completion holds no text",
            got=str(reply)[:200],
            wanted='{"choices": [{"text": ...}]}, as the API of OpenAI has it',
        ) from None


def _check_places(
    scores: Sequence[TokenScores | None], tokens: Sequence[int], begin: int, who: str, way: Scoring
) -> None:
    """Refuse a server whose numbers do not say what it wrote itself, from `begin` on."""
    best = [
        unit.gold >= max(unit.logp.values(), default=0.0) - 1e-3
        for i, unit in enumerate(scores[begin:], start=begin)
        # A shift is not seen at a token that is repeated.
        if unit is not None and tokens[i] not in (*tokens[i - 1 : i], *tokens[i + 1 : i + 2])
    ]
    if not best:
        log.warning(
            "%s: whether the server's log-probabilities are those of the tokens beside them could not be told: "
            "what it wrote repeats one token, or is cut into others (%s)", who, way
        )  # fmt: skip
    elif sum(best) < _LEAST_LIKELIEST * len(best):
        raise ModelError(
            f"{who}: the server's log-probabilities are not those of the tokens beside them",
            got=f"of {len(best)} tokens that it wrote greedily, {sum(best)} are the likeliest at their place ({way})",
            wanted=f"at least {_LEAST_LIKELIEST:.0%}",
            next_step="some servers shift them by a token where the model has no token that begins a text: use another "
            "server (vLLM, SGLang), or report it there",
        )


def is_changed(before: ServerFacts, now: ServerFacts, but: str = "") -> bool:
    """Return whether a server says something else of itself than before, `but` left out."""
    return {k: v for k, v in before.said.items() if k != but} != {
        k: v for k, v in now.said.items() if k != but
    }
