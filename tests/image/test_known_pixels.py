"""Pixels outside the mask leave as they came, in every lossless format."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from maerestore.image import Photo, read_photo, write_photo

from .conftest import LOSSLESS_KINDS, SUFFIX, make_photo


def displayed(photo: Photo) -> np.ndarray:
    """What a viewer shows, exactly: palette entries are looked up, everything else is as stored."""
    return photo.samples if photo.palette is None else photo.palette[photo.samples]


@pytest.mark.parametrize(("file_format", "mode", "bits"), LOSSLESS_KINDS)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    seed=st.integers(0, 1000),
    density=st.sampled_from([0.0, 0.02, 0.5, 1.0]),
)
def test_a_fill_changes_only_what_the_mask_covers(
    file_format: str, mode: str, bits: int, size: tuple[int, int], seed: int, density: float
) -> None:
    rng = np.random.default_rng(seed)
    source = make_photo(file_format, mode, bits, size, seed)
    width, height = size
    mask = rng.random((height, width)) < density
    fill = rng.random((height, width, 3), dtype=np.float32)
    with tempfile.TemporaryDirectory() as folder:
        before, after = (Path(folder) / f"{name}{SUFFIX[file_format]}" for name in ("before", "after"))
        write_photo(source, before)
        photo = read_photo(before)
        np.testing.assert_array_equal(displayed(photo), displayed(source))
        write_photo(photo.with_fill(fill, mask), after)
        result = read_photo(after)
    assert (result.size, result.mode, result.bits) == (size, mode, bits)
    assert result.format == file_format
    np.testing.assert_array_equal(displayed(result)[~mask], displayed(source)[~mask])
    np.testing.assert_array_equal(result.samples[~mask], source.samples[~mask])
    alpha_before, alpha_after = source.alpha(), result.alpha()
    if alpha_before is not None and alpha_after is not None:
        np.testing.assert_array_equal(alpha_after, alpha_before)


@pytest.mark.parametrize(("file_format", "mode", "bits"), LOSSLESS_KINDS)
def test_filling_with_the_photo_itself_changes_nothing(file_format: str, mode: str, bits: int) -> None:
    if mode == "CMYK":
        pytest.skip("many inks print the same colour")
    photo = make_photo(file_format, mode, bits, (17, 9))
    again = photo.with_fill(photo.rgb(), np.ones((9, 17), dtype=bool))
    if mode == "P":
        np.testing.assert_array_equal(displayed(again), displayed(photo))
    else:
        np.testing.assert_array_equal(again.samples, photo.samples)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (8, 8), (20, 20), (129, 3)])
@pytest.mark.parametrize(("file_format", "mode", "bits"), LOSSLESS_KINDS)
def test_every_size_survives_a_round_trip(
    file_format: str, mode: str, bits: int, size: tuple[int, int], tmp_path: Path
) -> None:
    source = make_photo(file_format, mode, bits, size, seed=size[0])
    path = tmp_path / f"photo{SUFFIX[file_format]}"
    write_photo(source, path)
    result = read_photo(path)
    assert (result.size, result.mode, result.bits) == (size, mode, bits)
    np.testing.assert_array_equal(result.samples, source.samples)
    np.testing.assert_array_equal(displayed(result), displayed(source))
