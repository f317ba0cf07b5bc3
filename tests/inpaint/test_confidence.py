"""What the numbers of a confidence map mean."""

from __future__ import annotations

import numpy as np
import pytest

from maerestore.inpaint import confidence
from maerestore.inpaint.pipeline import Inpainter

from .conftest import box_mask, random_model, textured

PHOTO, MASK = textured(48, 64), box_mask(48, 64, (10, 16, 34, 48))


@pytest.mark.parametrize("error", [0.0, 0.05, 0.1, 0.3])
def test_confidence_is_one_over_e_at_an_error_of_a_tenth(
    error: float, inpainter: Inpainter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confidence, "expected_error", lambda clues: np.full(clues.distance.shape, error))
    sure = inpainter.confidence(PHOTO, MASK)
    np.testing.assert_allclose(sure[MASK], np.exp(-error / 0.1), rtol=1e-6)
    assert (sure[~MASK] == 1).all()


def test_pictures_are_compared_as_smooth_as_the_fill_is() -> None:
    # A low-pass takes noise from each of the pictures, so that they differ less.
    plain, smooth = (Inpainter(random_model(), smooth=sigma).confidence(PHOTO, MASK)[MASK] for sigma in (0.0, 3.0))
    assert smooth.mean() > plain.mean()
    assert (smooth > plain).mean() > 0.8
