"""`HttpTokensBackend`: a served language model teaches causal_lm by the log-probabilities of each target's tokens.

Decision record: log-probabilities at T = 1 serve T = 1 alone (a check refuses other temperatures), and hold no entropy
of the whole distribution. Where a server takes text alone, rows that it cuts otherwise and the token that ends a text
are not covered.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from raykd.answers.codec import encode_answer
from raykd.answers.vocabularies import TeacherVocabulary
from raykd.errors import ModelError, TeacherError
from raykd.tasks import CausalLM
from raykd.tasks.answer_forms import TopKAnswers
from raykd.tasks.kinds.language import fill_offsets
from raykd.teachers.backends.http.backend import HttpBackend, count_tokens
from raykd.teachers.backends.http.replies import TokenScores, build_answer
from raykd.teachers.backends.http.server import read_completion
from raykd.teachers.spec import TeacherSpec
from raykd.text.batch import TextBatch
from raykd.text.encoding import EncodedRows
from raykd.text.prompts import encode_prompts


class HttpTokensBackend(HttpBackend):
    """A served language model that teaches a language model.

    Args:
        spec: What to ask and how to answer.
    """

    def __init__(self, spec: TeacherSpec) -> None:
        super().__init__(spec)
        answers = getattr(spec.task, "answers", None)
        self.k = answers.k if isinstance(answers, TopKAnswers) else 1

    def check_task(self) -> None:
        """See `HttpBackend.check_task`."""
        task = self.spec.task
        if not isinstance(task, CausalLM) or not isinstance(task.answers, TopKAnswers):
            kind = task.answers.kind if isinstance(task, CausalLM) else task.kind
            raise ModelError(
                f"{self.who}: a server cannot answer in this form",
                got=f"task {task.kind}, answers {kind}" if kind != task.kind else f"task {task.kind}",
                wanted="task causal_lm with answers: {kind: top_k}",
            )

    def compute(self, batch: TextBatch) -> list[bytes]:
        """Answer every row by one request.

        Raises:
            TeacherError: The server does not answer, or the budget would be passed.
            ModelError: It is not what it was, or its replies are not of the tokens that were sent.
        """
        facts = self.make_ready(patient=True)
        rows = self._encode(batch)
        tokens = [row.tolist() for row in rows.fields["input_ids"]]

        def answer(i: int) -> tuple[bytes, int]:
            scores, used = self.score(facts, tokens[i])
            return self._build_body(rows, i, scores), used

        return self.finish(batch, self.ask_all(answer, [len(row) + 1 for row in tokens]))

    def estimate_tokens(self, batch: TextBatch) -> float | None:
        """Return the tokens of a row's request on average, the generated one included; asks no server."""
        length = self.teacher.max_length or self.spec.task.max_length
        return float(np.mean(self._encode(batch, length).lengths_B)) + 1.0 if len(batch) else 0.0

    def vocabulary(self) -> TeacherVocabulary:
        """Return the tokenizer."""
        return TeacherVocabulary(self.tokenizer)

    def generate(self, rows: TextBatch, *, beams: int | None, max_new_tokens: int) -> list[str]:
        """Let the server write a text for each prompt, greedily.

        Raises:
            TeacherError: It does not answer, or beams are asked for.
        """
        if beams not in (None, 1):
            raise TeacherError(
                f"{self.who}: a server writes greedily",
                got=f"{beams} beams",
                wanted="1",
                next_step="--beams 1, or task.beams: 1",
            )
        facts, task = self.read_facts(), self.spec.task
        limit = task.prompt_tokens if isinstance(task, CausalLM) else None
        prompts = [row.tolist() for row in encode_prompts(self.tokenizer, rows.texts, limit).ids]
        takes_tokens = facts.scoring in ("prompt_logprobs", "echo")

        def write(i: int) -> tuple[str, int]:
            prompt = prompts[i] if takes_tokens else self.decode(prompts[i])
            body = {"model": facts.model, "prompt": prompt, "max_tokens": max_new_tokens, "temperature": 0.0}
            reply = self.client.post("/completions", body)
            self.check_stamp(facts, reply)
            return read_completion(reply), count_tokens(reply, len(prompts[i]) + max_new_tokens)

        return self.ask_all(write, [len(prompt) + max_new_tokens for prompt in prompts])

    def _build_body(self, rows: EncodedRows, i: int, scores: Sequence[TokenScores | None]) -> bytes:
        units = rows.find_units([i])
        assert rows.places_N2 is not None
        # The place before a token predicts it.
        of_units = [scores[place + 1] for place in rows.places_N2[units, 1].tolist()]
        offsets_N = fill_offsets(rows.extra["offsets_N"][units], np.asarray([len(units)]))
        answer, _ = build_answer(of_units, offsets_N, self.names.vocab)
        wanted = min(self.k, self.names.vocab)
        held = [unit for unit, covered in zip(of_units, answer.covered_N, strict=True) if unit and covered]
        few = sum(len(unit.logp) < wanted for unit in held)
        self.count_units(len(units), len(units) - len(held), few)
        return encode_answer(answer)

    def _encode(self, batch: TextBatch, length: int | None = None) -> EncodedRows:
        length = self.describe().max_length if length is None else length
        return self.spec.task.model_copy(update={"max_length": length}).encode(self.tokenizer, batch)
