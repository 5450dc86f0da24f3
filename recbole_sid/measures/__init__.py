"""What codes and embeddings of items are worth without a generator: UniSID's measurements."""

from __future__ import annotations

from recbole_sid.errors import InputError


class NothingToMeasure(InputError):
    """The input is sound, but the data are too few, or too much alike, for this measurement."""
