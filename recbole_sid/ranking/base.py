"""What RecBole sees of a click predictor over semantic IDs: a point-wise sequential model."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from recbole.data.dataset import Dataset
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import Tensor, nn

from recbole_sid.errors import InputError, preview
from recbole_sid.model.recommender import stage_1
from recbole_sid.settings import require
from recbole_sid.sid.table import SemanticIDs
from recbole_sid.training_settings import LEARNERS

if TYPE_CHECKING:
    from recbole_sid.config import Config


class ClickModel(SequentialRecommender):
    """Gives the probability that a user with a history likes an item; labels are 0 and 1.

    Constructing it runs stage 1 (items to SIDs, cached) unless ``sids`` are given. Labels come from
    RecBole: from a column called ``LABEL_FIELD``, from ``threshold: {rating: 4}``, or from
    negatives that it draws (``train_neg_sample_args``).

    Class variable ``Settings``: a frozen dataclass of the model's own settings, whose defaults
    stand in properties/model/.

    Attributes:
        sids: of the items, rows in the dataset's order.
        embeddings, tokenizer_weights: as of :class:`.SIDRecommender`.
    """

    Settings: ClassVar[type]
    input_type = InputType.POINTWISE
    sids: SemanticIDs

    def __init__(self, config: Config, dataset: Dataset, sids: SemanticIDs | None = None):
        """
        Args:
            config: our ``Config``.
            dataset: RecBole's dataset; its items are the catalogue.
            sids: SIDs of the catalogue, of any row order; None computes or loads them.

        Raises:
            InputError: there are no labels, or they are not 0 and 1; ``sids`` do not fit the
                dataset; RecBole does not know the optimizer.
        """
        super().__init__(config, dataset)
        learner = config["learner"]  # RecBole takes Adam for a name that it does not know
        require(str(learner).lower() in LEARNERS, "learner", learner, "one of " + preview(LEARNERS))
        self.label_field: str = config["LABEL_FIELD"]
        check_labels(config, dataset)
        tokens = tuple(dataset.field2id_token[self.ITEM_ID][1:].tolist())
        self.embeddings: np.ndarray | None = None
        self.tokenizer_weights: Mapping[str, np.ndarray] | None = None
        self.fit_seconds: float | None = None
        if sids is None:
            made = stage_1(config, dataset, tokens)
            sids, self.embeddings, self.tokenizer_weights, self.fit_seconds = made
        self.sids = sids.aligned(tokens)
        self.loss = nn.BCEWithLogitsLoss()

    @abstractmethod
    def logits(self, interaction: Interaction) -> Tensor:
        """(B,) log-odds that each row's item is liked."""

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """Mean binary cross-entropy of a batch."""
        return self.loss(self.logits(interaction), interaction[self.label_field].float())

    def predict(self, interaction: Interaction) -> Tensor:
        """(B,) probability that each row's item is liked."""
        return self.logits(interaction).sigmoid()


def check_labels(config: Config, dataset: Dataset) -> None:
    """The training split has labels 0 and 1, both of them, unless RecBole draws negatives.

    Raises:
        InputError: it has not.
    """
    if config["train_neg_sample_args"]["distribution"] != "none":
        return
    field = config["LABEL_FIELD"]
    remedy = (
        "Name the column they follow from with threshold: {rating: 4}, which load_col must load, "
        "or have negatives drawn with train_neg_sample_args: {distribution: uniform, sample_num: 1}"
    )
    rows: Any = dataset.inter_feat
    if field not in rows:
        raise InputError(
            f"'{config['dataset']}' has no labels: no column '{field}' is loaded. {remedy}"
        )
    values = sorted(set(rows[field].float().tolist()))
    if not set(values) <= {0.0, 1.0}:
        raise InputError(
            f"the labels in column '{field}' must be 0 and 1, but are {preview(values)}. {remedy}"
        )
    if len(values) < 2:
        raise InputError(
            f"all labels of the training split are {values[0]:.0f}: there is nothing to tell "
            f"apart. {remedy}"
        )
