"""How well new items fit the SIDs that were there, and from where on to tokenize again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from recbole_sid.settings import require
from recbole_sid.sid.append import Appended, fullness
from recbole_sid.sid.table import SemanticIDs
from recbole_sid.tokenizer.base import BaseCodes


@dataclass(frozen=True)
class Limits:
    """From where on a report advises to tokenize and to train again.

    Attributes:
        most_moved: share of the new items that found no room at their SID.
        most_drift: how much more than the old items the new ones pay for their codes, in standard
            deviations of the old ones' costs. Some drift is usual: codes were fitted to the old.
        most_appended: share of the catalogue that the tokenizer and the generator never saw.
        most_filled: share of all places in the code space that are taken.
    """

    most_moved: float
    most_drift: float
    most_appended: float
    most_filled: float

    def __post_init__(self) -> None:
        for key in ("most_moved", "most_appended", "most_filled"):
            value = getattr(self, key)
            require(0 <= value <= 1, key, value, "a share, 0 to 1")
        require(self.most_drift >= 0, "most_drift", self.most_drift, "at least 0")


def judged(
    published: SemanticIDs, appended: Appended, made: BaseCodes, limits: Limits
) -> dict[str, Any]:
    """The part of the report that says how well the new items fit."""
    drift = _drift(published, made)
    full = fullness(appended.sids)
    moves = appended.report
    share = appended.sids.provenance["appended"] / appended.sids.n_items
    moved = moves["moved"] / moves["new"]
    reasons = []
    if moved > limits.most_moved:
        reasons.append(f"{moved:.1%} of the new items had no room at their SID")
    if drift is not None and drift["shift"] > limits.most_drift:
        reasons.append(
            f"codes describe the new items worse than the old ones, by {drift['shift']:.2f} "
            "standard deviations"
        )
    if share > limits.most_appended:
        reasons.append(f"{share:.1%} of the items were never trained on")
    if full["filled"] is not None and full["filled"] > limits.most_filled:
        reasons.append(f"{full['filled']:.1%} of the code space is taken")
    return {
        "appended_share": share,
        "collisions": moves,
        "fullness": full,
        "drift": drift,
        "retokenize": [f"retokenize: {reason}" for reason in reasons],
        "retokenize_when": (
            f"more than {limits.most_moved:.0%} of new items move, codes cost them more than "
            f"{limits.most_drift:g} standard deviations more, more than "
            f"{limits.most_appended:.0%} of the items were appended, or more than "
            f"{limits.most_filled:.0%} of the code space is taken"
        ),
    }


def _drift(published: SemanticIDs, made: BaseCodes) -> dict[str, Any] | None:
    """What new items pay for their codes beside what the fitted ones did.

    ``shift`` is the difference of the means in standard deviations of the old ones' costs; a cost
    is a squared distance or minus a logit, see :class:`.CodeSpace`.
    """
    old = published.provenance.get("code_costs")
    if made.space is None or old is None or old["std"] == 0:
        return None
    new = made.space.spread(made.codes)
    return {"old": old, "new": new, "shift": (new["mean"] - old["mean"]) / old["std"]}
