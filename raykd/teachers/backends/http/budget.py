"""`TokenBudget`: count the tokens that a served model cost, over processes and runs, and stop before they are too many.

Decision record: a budget holds for all that was ever paid for answers in one folder of stores, since what is stored is
not paid for twice. So a resumed run, a restarted process and several replicas share it; on several nodes each has its
own folder. What a request can cost at most is entered before it is sent and corrected by the reply, so a process that
is killed has counted too much, never too little.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from filelock import FileLock

from raykd.config import HttpTeacher
from raykd.errors import TeacherError


class TokenBudget:
    """The tokens of one teacher.

    Args:
        teacher: Names the budget; one without is never passed, and nothing is written for it.
        store: Folder of all stores, which keeps the count; None counts in this process alone.
    """

    def __init__(self, teacher: HttpTeacher, store: str | None) -> None:
        self._teacher, self._most = teacher, teacher.most_tokens
        named = hashlib.sha256(f"{teacher.url} {teacher.model_name}".encode()).hexdigest()[:16]
        self._file = None if store is None else Path(store) / f"spent-{named}.json"
        self._spent = 0

    def reserve(self, tokens: int) -> None:
        """Enter what requests may cost, before they are sent.

        Raises:
            TeacherError: The budget would be passed; nothing is entered then.
        """
        if self._most is not None:
            self._change(tokens, self._most)

    def settle(self, reserved: int, used: int) -> None:
        """Correct what was entered by what was used."""
        if self._most is not None:
            self._change(used - reserved, None)

    def _change(self, tokens: int, most: int | None) -> None:
        if self._file is None:
            self._spent = self._add(self._spent, tokens, most)
            return
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self._file}.lock"):
            try:
                spent = int(json.loads(self._file.read_text(encoding="utf-8"))["tokens"])
            except (OSError, ValueError, KeyError, TypeError):
                spent = 0
            spent = self._add(spent, tokens, most)
            fresh = self._file.with_suffix(".new")
            fresh.write_text(
                json.dumps({"model": self._teacher.model_name, "tokens": spent}), encoding="utf-8"
            )
            fresh.replace(self._file)

    def _add(self, spent: int, tokens: int, most: int | None) -> int:
        if most is not None and spent + tokens > most:
            name, price = self._teacher.name, self._teacher.price
            rate = None if price is None else price.per_million_tokens
            money = "" if rate is None else f", {spent * rate / 1e6:.2f} of money"
            raise TeacherError(
                f"teacher {name}: its budget is used up",
                got=f"{spent:,} tokens spent{money}; the next {tokens:,} would pass it",
                wanted=f"at most {most:,} tokens (teachers.{name}.budget), over all runs that share "
                f"{'this process' if self._file is None else self._file.parent}",
                next_step="its answers so far are stored; raise the budget, and the same command goes on (train: with "
                "--resume); or take fewer rows",
            )
        return spent + tokens
