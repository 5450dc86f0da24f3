"""A finished run that answers single requests: loaded once, used from any number of threads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from recbole_sid.errors import InputError
from recbole_sid.memory import keep_freed_memory
from recbole_sid.serving.bundle import Bundle, open_bundle
from recbole_sid.serving.lists import check_list, padded, rank, rows_by_token
from recbole_sid.serving.rules import Filter, item_rules, mask_of, parse_now
from recbole_sid.settings import require
from recbole_sid.sid.files import shown

MAX_HISTORY = 10_000


class Answer(NamedTuple):
    """The list of one request."""

    items: list[str]  # raw ids, best first; fewer than k only where no more may be ranked
    scores: np.ndarray  # float32, the log-likelihood of each item's SID
    unknown: list[str]  # ids of the history that the run does not know, each once; were skipped


class Recommender:
    """A run or an export that is loaded once and answers requests.

    No request changes anything in it, so threads may share one, and need no lock. torch computes
    with the GIL released; ``torch.set_num_threads(1)`` is best where there are as many threads as
    cores.
    """

    def __init__(self, bundle: Bundle, max_history: int = MAX_HISTORY):
        """
        Args:
            bundle: from :func:`.open_bundle`.
            max_history: items in a history, at most; the model sees the last ``bundle.window``.

        Raises:
            InputError: the items' rules cannot be read.
        """
        whole = type(max_history) is int and max_history >= 1
        require(whole, "max_history", max_history, "a whole number above 0")
        keep_freed_memory()
        self.bundle = bundle
        self.max_history = max_history
        self.rules = item_rules(bundle)
        self._everything = self.rules.filter(bundle)
        self._row_of = rows_by_token(bundle)
        self._tokens = np.array(["", *bundle.sids.tokens], dtype=object)
        # What is made at the first use (threads, memory) is made now.
        self.recommend([bundle.sids.tokens[0]], k=1, now=0.0 if self.rules.timed else None)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        device: torch.device | str | None = None,
        max_history: int = MAX_HISTORY,
    ) -> Recommender:
        """Open a finished run's folder or an export, and warm up.

        Raises:
            InputError: it is neither, or damaged.
        """
        return cls(open_bundle(folder, device), max_history)

    @property
    def n_items(self) -> int:
        """Items of the catalogue."""
        return self.bundle.sids.n_items

    def filter(self, allowed: Iterable[str]) -> Filter:
        """Prepare raw ids, so that requests may be answered with these items alone.

        It costs as much as some requests: keep it for further ones. What the run itself allows
        holds besides. Ids that the run does not know have no effect.

        Raises:
            InputError: none of them is an item of the run.
        """
        if isinstance(allowed, str):
            raise InputError(f"the allowed ids are {allowed!r}, but must be a list of raw ids")
        mask = mask_of(allowed, self.bundle.sids.tokens, "as given")
        return self.rules.filter(self.bundle, mask)

    def recommend(
        self,
        history: Sequence[str],
        k: int = 10,
        user: str | None = None,
        exclude_history: bool | None = None,
        allowed: Filter | None = None,
        now: float | str | None = None,
        beam_size: int | None = None,
    ) -> Answer:
        """The ``k`` best next items after ``history``.

        Args:
            history: raw ids, oldest first. Unknown ones are skipped, and named in the answer; the
                list after a history without a known item is empty.
            k: length of the list, at most the number of items and ``beam_size``.
            user: a name matters only to a generator with user tokens.
            exclude_history: leave the items of the history out; None is the run's own setting.
            allowed: from :meth:`filter`; None allows all that the run does.
            now: a time, in seconds or as ISO text, at which the items must be available; None
                leaves their times out of account, unless the run has ``filter_unavailable``.
            beam_size: width of the search; None is the run's.

        Raises:
            InputError: an argument is out of bounds.
        """
        (answer,) = self.recommend_many(
            [history], k, [user], exclude_history, allowed, now, beam_size
        )
        return answer

    def recommend_many(
        self,
        histories: Sequence[Sequence[str]],
        k: int = 10,
        users: Sequence[str | None] | None = None,
        exclude_history: bool | None = None,
        allowed: Filter | None = None,
        now: float | str | None = None,
        beam_size: int | None = None,
    ) -> list[Answer]:
        """As :meth:`recommend`, for histories that are ranked together, in their order.

        Args:
            users: a name or None for each history; None for no names.
        """
        if users is None:
            users = [None] * len(histories)
        if len(users) != len(histories):
            raise InputError(f"{len(users)} users are given for {len(histories)} histories")
        for history, user in zip(histories, users, strict=True):
            self._check_request(history, user)
        beam_size = self.bundle.beam_size if beam_size is None else beam_size
        check_list(k, self.n_items, beam_size, exclude_history)
        if exclude_history is None:
            exclude_history = self.bundle.exclude_history
        chosen = self._everything if allowed is None else allowed
        if not isinstance(chosen, Filter) or chosen.rules is not self.rules:
            raise InputError("'allowed' must come from filter of this recommender")
        seconds = parse_now(self.bundle, self.rules, now)
        answers = []
        known: list[list[int]] = []
        for history in histories:
            rows = [self._row_of.get(token, 0) for token in history]
            unknown = (token for token, row in zip(history, rows, strict=True) if not row)
            known.append([row for row in rows if row])
            answers.append(Answer([], np.empty(0, np.float32), list(dict.fromkeys(unknown))))
        filled = [place for place, rows in enumerate(known) if rows]
        size = int(self.bundle.settings["eval_batch_size"])
        for start in range(0, len(filled), size):
            batch = filled[start : start + size]
            ranked = rank(
                self.bundle,
                self.bundle.users([users[place] for place in batch]),
                padded([known[place] for place in batch]),
                k,
                beam_size,
                exclude_history,
                chosen.at(seconds, len(batch)),
            )
            lists = zip(batch, ranked.items.cpu().numpy(), ranked.scores.cpu().numpy(), strict=True)
            for place, items, scores in lists:
                listed = self._tokens[items[items > 0]].tolist()
                answers[place] = answers[place]._replace(items=listed, scores=scores[items > 0])
        return answers

    def _check_request(self, history: Any, user: Any) -> None:
        if isinstance(history, str) or not isinstance(history, (Sequence, np.ndarray)):
            raise InputError(f"the history is {shown(history)}, but must be a list of raw item ids")
        if len(history) > self.max_history:
            raise InputError(
                f"the history has {len(history):,} items, but must have at most "
                f"{self.max_history:,}: the model sees the last {self.bundle.window} of them"
            )
        for token in history:
            if not isinstance(token, str):
                raise InputError(f"item {shown(token)} is not text: give raw item ids")
        if user is not None and not isinstance(user, str):
            raise InputError(f"user {shown(user)} is not text: give the raw user id")
        try:
            "".join([*history, user or ""]).encode()
        except UnicodeEncodeError as error:
            raise InputError(f"an id is not valid Unicode ({error})") from error
