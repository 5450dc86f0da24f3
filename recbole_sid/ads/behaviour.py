"""What users do, day by day: sessions of clicks, with the impressions and conversions around them.

Users remember their last product and kind of good from click to click and from day to day, and
four interests that a session begins with. A click that was drawn from all ads leaves no trace.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from recbole_sid.ads.catalogue import KINDS, Catalogue
from recbole_sid.ads.live import Live, Routes, State, Tastes
from recbole_sid.errors import InputError

DAY = 86_400
CLICKS_AN_EVENT = 0.3
CONVERSIONS_A_CLICK = 0.08
CLICKS_A_SESSION = 5  # mean
MOST_CLICKS = 100  # of a user and day, on average over all
NEW_INTEREST = 0.15  # at the beginning of a session, one becomes a kind related to the last one
TYPES = ("impression", "click", "conversion")
IMPRESSION, CLICK, CONVERSION = range(3)


class Plan(NamedTuple):
    """How many events there are, exactly, and on which days.

    ``days``: those with a live ad; ``click_bounds``: their clicks are numbered from the one to the
    next, (n_days + 1,). ``first_clicks``: the number of a click that is each user's for sure, so
    that all users are seen, rising (n_users,). ``converts``, ``unclicked``: for each click, whether
    a conversion follows, and how many impressions without a click are around it.
    """

    days: np.ndarray
    click_bounds: np.ndarray
    first_clicks: np.ndarray
    converts: np.ndarray
    unclicked: np.ndarray

    @property
    def n_impressions(self) -> int:
        return len(self.converts) + int(self.unclicked.sum())


class Log(NamedTuple):
    """Events by rising second: user, ad, place in ``TYPES``, seconds from the log's first day."""

    users: np.ndarray
    ads: np.ndarray
    types: np.ndarray
    seconds: np.ndarray


class Step(NamedTuple):
    """One click of each of B users: what was possible, and what was taken."""

    users: np.ndarray
    routes: Routes
    ads: np.ndarray


Watch = Callable[[int, Live, list[Step]], None]


def make_plan(
    catalogue: Catalogue, n_users: int, n_events: int, n_days: int, rng: np.random.Generator
) -> Plan:
    """Share the events out.

    Raises:
        InputError: too few or too many events for the users and days.
    """
    n_clicks = round(CLICKS_AN_EVENT * n_events)
    if n_users > n_clicks:
        raise InputError(
            f"--users is {n_users}, but must be at most {n_clicks}, the clicks among --events "
            f"{n_events}, so that every user has one: lower --users, or raise --events"
        )
    day_numbers = np.arange(n_days)
    begins = np.bincount(np.maximum(catalogue.ad_start, 0), minlength=n_days)
    ends = np.bincount(np.minimum(catalogue.ad_end, n_days), minlength=n_days + 1)[:n_days]
    days = day_numbers[np.cumsum(begins - ends) > 0]
    if n_clicks > MOST_CLICKS * n_users * len(days):
        raise InputError(
            f"--events is {n_events}, of which {n_clicks} are clicks, but {n_users} users on "
            f"{len(days)} days with ads take at most {MOST_CLICKS * n_users * len(days)}: raise "
            "--users or --days"
        )
    weights = 1 + 0.3 * np.sin(2 * np.pi * days / 7)
    sums = np.cumsum(weights) / weights.sum()
    converts = np.zeros(n_clicks, bool)
    n_conversions = round(CONVERSIONS_A_CLICK * n_clicks)
    converts[rng.permutation(n_clicks)[:n_conversions]] = True
    n_unclicked = n_events - 2 * n_clicks - n_conversions
    return Plan(
        days,
        np.concatenate([[0], np.rint(n_clicks * sums).astype(np.int64)]),
        np.arange(n_users) * n_clicks // n_users,
        converts,
        np.bincount(rng.integers(n_clicks, size=n_unclicked), minlength=n_clicks).astype(np.int32),
    )


def simulate(
    tastes: Tastes, plan: Plan, rng: np.random.Generator, watch: Watch | None = None
) -> Iterator[Log]:
    """The log of each day, in order; ``watch`` is shown the clicks of each day."""
    world = tastes.catalogue
    n_users = len(plan.first_clicks)
    by_product = np.argsort(world.ad_product, kind="stable")
    activity = rng.normal(0.0, 1.0, n_users)  # logarithm
    # Which of the users has to come on which day does not depend on the number.
    debut = rng.permutation(n_users)
    memory = _Memory(
        np.full(n_users, -1),
        np.full(n_users, -1),
        rng.choice(len(KINDS), (n_users, 4), p=world.kind_weights),
    )
    bounds = zip(plan.days, plan.click_bounds[:-1], plan.click_bounds[1:], strict=True)
    for day, first, last in bounds:
        if first == last:
            continue
        come = debut[slice(*np.searchsorted(plan.first_clicks, [first, last]))]
        users, lengths = _sessions(int(last - first), activity, come, rng)
        live = Live(tastes, by_product, int(day))
        steps = list(_clicks(live, memory, users, lengths, rng))
        if watch is not None:
            watch(int(day), live, steps)
        yield _events(live, steps, plan, int(first), int(day), rng)


class _Memory(NamedTuple):
    """Of each user: the last product and kind, and the interests; changed in place."""

    products: np.ndarray
    kinds: np.ndarray
    interests: np.ndarray


def _sessions(
    n_clicks: int, activity: np.ndarray, come: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Who clicks today, and how often: one session a user, the longest first."""
    count = min(max(-(-n_clicks // CLICKS_A_SESSION), len(come)), len(activity), n_clicks)
    # The highest of numbers with Gumbel noise are a weighted draw without repeats.
    keys = activity + rng.gumbel(size=len(activity))
    keys[come] = np.inf
    users = np.sort(np.argpartition(-keys, count - 1)[:count])
    shares = rng.uniform(0.25, 1.75, count)
    lengths = 1 + rng.multinomial(n_clicks - count, shares / shares.sum())
    order = np.argsort(-lengths, kind="stable")
    return users[order], lengths[order]


def _clicks(
    live: Live, memory: _Memory, users: np.ndarray, lengths: np.ndarray, rng: np.random.Generator
) -> Iterator[Step]:
    """The first click of all sessions, then the second of those that have one, and so on."""
    world, tastes = live.catalogue, live.tastes
    moved = (rng.random(len(users)) < NEW_INTEREST) & (memory.kinds[users] >= 0)
    rows = users[moved]
    related = tastes.related[memory.kinds[rows], rng.integers(2, size=len(rows))]
    memory.interests[rows, rng.integers(4, size=len(rows))] = related
    for step in range(int(lengths[0])):
        users = users[: int(np.searchsorted(-lengths, -step, side="left"))]
        opening = np.full(len(users), step == 0)
        routes = live.routes(
            State(
                users, memory.products[users], memory.kinds[users], opening, memory.interests[users]
            )
        )
        ads, from_all = live.draw(routes, rng)
        taken, products = users[~from_all], world.ad_product[ads[~from_all]]
        memory.products[taken] = products
        memory.kinds[taken] = world.product_kind[products]
        yield Step(users, routes, ads)


def _events(
    live: Live, steps: list[Step], plan: Plan, first: int, day: int, rng: np.random.Generator
) -> Log:
    """Impressions, clicks and conversions of one day, with their seconds.

    A clicked ad was shown up to nine seconds before. Impressions without a click are of the same
    kind, or of any; they follow within nine seconds, and the next click is 20 seconds away at
    least. A conversion comes within ten minutes.
    """
    world = live.catalogue
    users = steps[0].users
    n_sessions, n_clicks = len(users), sum(len(step.users) for step in steps)
    gaps = rng.integers(20, 91, n_clicks)
    passed = np.zeros(n_sessions, np.int64)
    ends = np.cumsum([len(step.users) for step in steps])
    clicks = np.empty(n_clicks, np.int64)
    for end, step in zip(ends.tolist(), steps, strict=True):
        part = slice(end - len(step.users), end)
        passed[: len(step.users)] += gaps[part]
        clicks[part] = passed[: len(step.users)]
    # The day's last conversion is still on that day. RecBole rounds times to 128 seconds: no click
    # is so near to midnight that its ad would seem to be gone, or not there yet.
    begin = 100 + np.floor(rng.beta(3, 2, n_sessions) * (DAY - passed - 701)).astype(np.int64)
    row = np.concatenate([np.arange(len(step.users)) for step in steps])
    clicks += begin[row] + day * DAY
    users, ads = users[row], np.concatenate([step.ads for step in steps])

    counts = plan.unclicked[first : first + n_clicks]
    beside = np.repeat(np.arange(n_clicks), counts)
    kinds = world.product_kind[world.ad_product[ads[beside]]]
    same = rng.random(len(beside)) < 0.7
    low = np.where(same, world.kind_products[kinds], 0)
    high = np.where(same, world.kind_products[kinds + 1], world.n_products)
    others = live.draw_in(low, high, rng)
    converts = plan.converts[first : first + n_clicks]
    parts = (
        (users, ads, IMPRESSION, clicks - rng.integers(1, 10, n_clicks)),
        (users[beside], others, IMPRESSION, clicks[beside] + rng.integers(1, 10, len(beside))),
        (users, ads, CLICK, clicks),
        (
            users[converts],
            ads[converts],
            CONVERSION,
            clicks[converts] + rng.integers(30, 601, int(converts.sum())),
        ),
    )
    columns = [
        np.concatenate([np.broadcast_to(part[n], part[0].shape) for part in parts])
        for n in range(4)
    ]
    order = np.argsort(columns[3], kind="stable")
    return Log(*(column[order] for column in columns))
