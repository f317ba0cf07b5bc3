"""The whitening of a classifier's features."""

from __future__ import annotations

from pathlib import Path

from maerestore.features.whiten import Whitening
from maerestore.hub.errors import ModelError


def load_whitening(whitening: Whitening | str | Path | None, fingerprint: str) -> Whitening | None:
    """A whitening, checked against the features that a head is fitted to.

    Args:
        whitening: or the file that `Whitening.save` wrote; None for none.
        fingerprint: of the features, see `maerestore.features.FeatureExtractor`.

    Raises:
        ModelError: no such file, or features that were not whitened by it.
    """
    if whitening is None:
        return None
    found = whitening if isinstance(whitening, Whitening) else Whitening.load(whitening)
    if found.whitened_fingerprint() != fingerprint:
        name = "the whitening given" if found is whitening else whitening
        raise ModelError(f"{name}: the features that the classifier was fitted to were not whitened (--whiten) by this")
    return found
