"""What a generator is: SID history in, next item out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor, nn

from recbole_sid.generator.availability import Available
from recbole_sid.generator.beam import Ranked
from recbole_sid.generator.catalogue import Catalogue
from recbole_sid.settings import require


class Generator(nn.Module, ABC):
    """A network over SIDs. Histories are RecBole's internal item ids, left aligned, 0 on the right.

    A subclass declares ``Settings``, a frozen dataclass whose fields are its settings by their own
    names; the defaults stand in ``properties/generator/<name>.yaml``. Registered under a name, it
    serves every tokenizer: it sees the SIDs only as a :class:`Catalogue`.

    ``decoding_settings`` are the settings that change how a trained generator ranks and nothing
    else: a finished run may be evaluated again with others.

    ``needs_parallel_codes``: whether it writes the codes of an item in any order, so that each must
    say something by itself: residual ones are refused.
    """

    Settings: ClassVar[type]
    decoding_settings: ClassVar[frozenset[str]] = frozenset({"beam_size"})
    needs_parallel_codes: ClassVar[bool] = False
    user_buckets: Tensor

    def __init__(self, settings: object, catalogue: Catalogue, window: int, user_buckets: Tensor):
        """
        Args:
            settings: an instance of ``Settings``.
            catalogue: the items and their SIDs.
            window: the longest history, in items.
            user_buckets: (n_users,) a hash of each user's raw token, at least 0.
        """
        super().__init__()
        self.catalogue = catalogue
        self.window = window
        self.register_buffer("user_buckets", user_buckets, persistent=False)

    @staticmethod
    def needs_vectors(settings: Any) -> bool:
        """Whether the catalogue must hold the items' content vectors under these ``settings``."""
        return False

    @property
    @abstractmethod
    def packs(self) -> bool:
        """Whether training uses ``packed_loss`` (all prefixes of a window in one pass)."""

    @abstractmethod
    def packed_loss(
        self, users: Tensor, history: Tensor, places: Tensor, targets: Tensor
    ) -> Tensor:
        """Mean loss over all targets, each predicted from a prefix of its row's history.

        Args:
            users: (B,).
            history: (B, T).
            places: (B, C) where the history of each target ends: it is ``history[:, :place + 1]``.
            targets: (B, C) item ids, 0 where a row has fewer than C.
        """

    @abstractmethod
    def prefix_loss(
        self, users: Tensor, history: Tensor, lengths: Tensor, targets: Tensor
    ) -> Tensor:
        """Mean loss over single samples.

        Args:
            users: (B,).
            history: (B, T).
            lengths: (B,) items in each history, at least 1.
            targets: (B,).
        """

    @abstractmethod
    def rank(
        self,
        users: Tensor,
        history: Tensor,
        lengths: Tensor,
        k: int,
        beam_size: int,
        available: Available | None = None,
    ) -> Ranked:
        """The ``k`` best items of each user; float32 whatever the precision of training.

        Args:
            users: (B,).
            history: (B, T).
            lengths: (B,).
            k: length of the lists.
            beam_size: width of the search.
            available: what each user may be given; all else is left out. It changes no score. A
                list may come out short where a wider search finds more
                (:func:`recbole_sid.model.ranking.rank_histories` goes on then). Given only when
                something is left out, so that a generator that filters nothing needs no such
                argument.
        """

    @abstractmethod
    def log_likelihood(
        self, users: Tensor, history: Tensor, lengths: Tensor, items: Tensor
    ) -> Tensor:
        """Exact log-likelihood of given items' SIDs, float32.

        Args:
            items: (B, C) candidate items of each user.

        Returns:
            (B, C).
        """


def require_window_targets(value: int | None) -> None:
    """The bounds of the setting that all packed generators share."""
    ok = value is None or value >= 1
    require(ok, "window_targets", value, "at least 1, or empty (~)")
