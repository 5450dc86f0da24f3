"""What is possible at best: the next clicked ad, predicted by one who knows the world.

The oracle knows the user's last product, kind, interests and favourite brands, and the weight of
every live ad. It ranks the live ads that the user has not clicked yet by their true probability. No
model that learns from the log can be better in the long run.
"""

from __future__ import annotations

import numpy as np

from recbole_sid.ads.behaviour import Step
from recbole_sid.ads.live import Live, Routes

TOP = (1, 5, 10, 20)
SAMPLE = 2000  # clicks
LATE_SHARE = 0.1  # of the days: the last ones, whose clicks are measured
BLOCK = 1 << 21  # probabilities at once


class Oracle:
    """Watches a simulation and measures the clicks of some users from a day on.

    Clicks on ads that the user has clicked before are left out, as ``prepare`` leaves them out.
    """

    def __init__(self, n_users: int, n_late: int, first_day: int, rng: np.random.Generator) -> None:
        """
        Args:
            n_late: about how many clicks there are from ``first_day`` on; the users are so many
                that about ``SAMPLE`` of these are theirs.
        """
        count = min(max(-(-SAMPLE * n_users // max(n_late, 1)), 1), n_users)
        self._chosen = np.zeros(n_users, bool)
        self._chosen[rng.permutation(n_users)[:count]] = True
        self._clicked: dict[int, set[int]] = {}
        self._first_day = first_day
        self._figures: list[np.ndarray] = []

    def watch(self, day: int, live: Live, steps: list[Step]) -> None:
        """Remember, and from the first day on measure, the clicks of one day."""
        late = day >= self._first_day
        place_of = np.full(live.catalogue.n_ads, -1)
        place_of[live.ads] = np.arange(len(live.ads))
        popular = np.argsort(np.argsort(-live.weights, kind="stable"), kind="stable")
        size = max(1, BLOCK // len(live.ads))
        for step in steps:
            rows = np.flatnonzero(self._chosen[step.users])
            ads = step.ads[rows].tolist()
            before = [self._clicked.setdefault(user, set()) for user in step.users[rows].tolist()]
            new = [n for n, ad in enumerate(ads) if late and ad not in before[n]]
            for start in range(0, len(new), size):
                part = new[start : start + size]
                routes = Routes(*(column[rows[part]] for column in step.routes))
                seen = [(n, place_of[ad]) for n, place in enumerate(part) for ad in before[place]]
                shown = np.array([pair for pair in seen if pair[1] >= 0], np.int64).reshape(-1, 2)
                targets = place_of[step.ads[rows[part]]]
                self._figures.append(figures(live.probabilities(routes), targets, shown, popular))
            for ad, clicked in zip(ads, before, strict=True):
                clicked.add(ad)

    def report(self) -> dict[str, float]:
        """Means over the clicks; without any, their number alone.

        ``hr@k`` and ``ndcg@k``: of what was clicked. ``expected_hr@k``: the probability that the
        oracle's first k hold. ``popular_hr@k``: of the live ads by popularity and age.
        """
        columns = [
            *(f"hr@{k}" for k in TOP),
            *(f"ndcg@{k}" for k in TOP),
            *(f"expected_hr@{k}" for k in TOP),
            *(f"popular_hr@{k}" for k in TOP),
            "live_ads",
        ]
        if not self._figures:
            return {"clicks": 0}
        found = np.concatenate(self._figures)
        means = (round(float(mean), 5) for mean in found.mean(axis=0))
        return {"clicks": len(found), **dict(zip(columns, means, strict=True))}


def figures(
    probabilities: np.ndarray, targets: np.ndarray, seen: np.ndarray, popular: np.ndarray
) -> np.ndarray:
    """The figures of each of B clicks: float64 (B, columns of :meth:`Oracle.report`).

    Args:
        probabilities: of each live ad, (B, n).
        targets: the place of the clicked one, (B,).
        seen: rows, and places of what the user had clicked, int64 (m, 2).
        popular: the rank of each live ad by its weight, from 0, (n,).
    """
    rows, places = seen.T
    left = probabilities.copy()
    left[rows, places] = 0
    left /= left.sum(axis=1, keepdims=True)
    clicks = np.arange(len(targets))
    ranks = (left > left[clicks, targets][:, None]).sum(axis=1)
    popular_ranks = popular[targets]
    np.subtract.at(popular_ranks, rows, popular[places] < popular[targets][rows])
    width = min(TOP[-1], left.shape[1])
    best = np.cumsum(-np.sort(np.partition(-left, width - 1, axis=1)[:, :width], axis=1), axis=1)
    columns = [
        *(ranks < k for k in TOP),
        *(np.where(ranks < k, 1 / np.log2(ranks + 2), 0) for k in TOP),
        *(best[:, min(k, width) - 1] for k in TOP),
        *(popular_ranks < k for k in TOP),
        np.full(len(targets), left.shape[1]),
    ]
    return np.stack(columns, axis=1).astype(np.float64)
