"""A photo as its file holds it: native samples, and everything that travels with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from .box import Box, row_bands
from .canvas import is_transparent
from .color import ALPHA_MODES, CHANNELS, black_curve, from_rgb, to_rgb
from .metadata import Metadata
from .palette import extend_palette

__all__ = ["Photo", "Piece"]

Piece = tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_], Box]
"""A fill (h, w, 3), its mask (h, w), and their place in the photo."""

Opacity = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Photo:
    """A still image in its native samples, upright, with its metadata.

    Nothing is converted until `rgb` is asked for, and `with_fill` writes only the samples under the mask:
    what a mask leaves out cannot change.

    Attributes:
        samples: (H, W) or (H, W, C), uint8 up to 8 bits and uint16 above; read-only.
        mode: "1", "L", "LA", "P", "RGB", "RGBA" or "CMYK".
        bits: bits per sample: 1, 2, 4, 8 or 16.
        format: the file format it was read from, as Pillow names it: "PNG", "JPEG", "TIFF", ...
        palette: (K, 4) uint8 RGBA entries of mode "P", else None.
        color_key: the one colour of a PNG in mode "1", "L" or "RGB" that is transparent, in native samples.
        premultiplied: whether colours are stored multiplied by alpha (some TIFFs).
        extra_channel: whether the last channel of mode "LA" or "RGBA" is not opacity but something else that a TIFF
            carries, such as a saved selection.
        metadata: profile, EXIF, resolution and compression settings.

    Example:
        >>> photo = Photo(np.zeros((4, 6), dtype=np.uint8), mode="L")
        >>> photo.size
        (6, 4)
        >>> mask = np.zeros((4, 6), dtype=bool)
        >>> mask[1, 2] = True
        >>> filled = photo.with_fill(np.ones((4, 6, 3), dtype=np.float32), mask)
        >>> int(filled.samples.sum()), int(filled.samples[1, 2])
        (255, 255)
    """

    samples: npt.NDArray[Any]
    mode: str = "RGB"
    bits: int = 8
    format: str = "PNG"
    palette: npt.NDArray[np.uint8] | None = None
    color_key: tuple[int, ...] | None = None
    premultiplied: bool = False
    extra_channel: bool = False
    metadata: Metadata = field(default_factory=Metadata)

    def __post_init__(self) -> None:
        channels = CHANNELS[self.mode]
        expected = self.samples.shape[:2] if channels == 1 else (*self.samples.shape[:2], channels)
        if self.samples.ndim < 2 or self.samples.shape != expected:
            raise ValueError(f"mode {self.mode} takes {channels} channels, not shape {self.samples.shape}")
        if self.samples.dtype != (np.uint16 if self.bits > 8 else np.uint8):
            raise ValueError(f"{self.bits}-bit samples cannot be {self.samples.dtype}")
        if (self.mode == "P") != (self.palette is not None):
            raise ValueError("mode P, and no other, takes a palette")
        self.samples.flags.writeable = False

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.samples.shape[1], self.samples.shape[0]

    def rgb(self, window: Box | None = None) -> npt.NDArray[np.float32]:
        """Return the colours as stored, without applying the ICC profile.

        Args:
            window: (top, left, bottom, right) to convert only that part of a large photo.

        Returns:
            (H, W, 3) float32 in [0, 1]: gray is replicated, a palette looked up, CMYK converted.
        """
        samples = self._cut(window)
        if self.palette is not None:
            colors = self.palette[:, :3].astype(np.float32) / np.float32(255)
            return np.take(colors, samples, axis=0)
        return to_rgb(samples, self.mode, self.bits, self.premultiplied)

    def alpha(self, window: Box | None = None) -> npt.NDArray[np.float32] | None:
        """Return opacity (H, W) float32 in [0, 1], or None where the photo holds no transparency."""
        samples = self._cut(window)
        if self.palette is not None:
            opacity = self.palette[:, 3].astype(np.float32) / np.float32(255)
            return None if (opacity == 1).all() else opacity[samples]
        if self.mode in ALPHA_MODES and not self.extra_channel:
            return samples[..., -1].astype(np.float32) / np.float32(2**self.bits - 1)
        if self.color_key is not None:
            return 1 - self._is_key(samples).astype(np.float32)
        return None

    def on_white(self) -> npt.NDArray[np.float32]:
        """Return `rgb()` laid on white, so that no colours show that lie under transparent pixels."""
        color, alpha = self.rgb(), self.alpha()
        return color if alpha is None else 1 - alpha[..., None] * (1 - color)

    def is_transparent(self) -> bool:
        """Return whether any pixel is less than opaque."""
        return is_transparent(self)

    def with_fill(self, fill: npt.NDArray[np.float32], mask: npt.NDArray[np.bool_], window: Box | None = None) -> Photo:
        """Return a new photo whose pixels under the mask show `fill`.

        Values are rounded to the photo's own depth. Alpha stays as it is, so a pixel that was transparent
        stays transparent; `with_fills` can change it. A 1-bit photo is thresholded, a gray one gets the Rec.
        601 luma. A palette photo gets the nearest entry of the same alpha; new colours (a median cut of the
        fill) go into slots that no pixel outside the mask uses, so fill all holes of a palette photo in one
        call where possible. A CMYK photo gets as much black ink in a colour as its other pixels have in colours as
        dark.

        Args:
            fill: (h, w, 3) float RGB; values outside [0, 1] are clipped.
            mask: (h, w) bool, True where the fill goes.
            window: (top, left, bottom, right) that `fill` and `mask` cover; the whole photo by default.

        Raises:
            ValueError: the shapes do not agree, or the fill is not finite under the mask.
        """
        return self.with_fills([(fill, mask, self._checked(window))])

    def with_fills(self, pieces: Sequence[Piece], opacities: Sequence[Opacity | None] | None = None) -> Photo:
        """Return a new photo with several fills; copies only once.

        Args:
            pieces: each (fill, mask, window) as for `with_fill`.
            opacities: for each piece (h, w) float in [0, 1], the alpha of its pixels under the mask, NaN where it stays
                as it is, or None where it does everywhere. A palette photo gets the nearest alpha but 0 that its
                entries have; a photo without alpha ignores it.

        Raises:
            ValueError: as `with_fill`.
        """
        samples = self.samples.copy()
        levels = opacities or [None] * len(pieces)
        checked = [self._checked_piece(*piece) for piece in pieces]
        palette = self.palette
        black = black_curve(samples, self._outside(checked), self.bits) if self.mode == "CMYK" else None
        if palette is not None:
            palette = self._fill_indices(samples, palette, checked, levels)
        else:
            for (color, mask, (top, left, bottom, right)), opacity in zip(checked, levels, strict=True):
                region = samples[top:bottom, left:right]
                old = region[mask]
                wanted = np.full(len(old), np.nan, np.float32) if opacity is None else opacity[mask]
                changed = ~np.isnan(wanted)
                if self.mode in ALPHA_MODES:
                    old[changed, -1] = np.rint(wanted[changed].clip(0, 1) * (2**self.bits - 1))
                new = from_rgb(color, old, self.mode, self.bits, self.premultiplied, black)
                region[mask] = new if self.color_key is None else self._around_key(new, old, changed & (wanted >= 0.5))
        touched = any(mask.any() for _, mask, _ in checked)
        metadata = self.metadata.without_previews() if touched else self.metadata
        return replace(self, samples=samples, palette=palette, metadata=metadata)

    def _outside(self, pieces: list[Piece]) -> npt.NDArray[np.bool_]:
        """(H, W), True where no piece is filled."""
        outside = np.ones(self.samples.shape[:2], dtype=bool)
        for _, mask, (top, left, bottom, right) in pieces:
            outside[top:bottom, left:right] &= ~mask
        return outside

    def _checked_piece(self, fill: npt.NDArray[np.float32], mask: npt.NDArray[np.bool_], window: Box) -> Piece:
        """The colours (N, 3) under a piece's mask, the mask and the window."""
        top, left, bottom, right = self._checked(window)
        if mask.shape != (bottom - top, right - left) or mask.dtype != np.bool_:
            raise ValueError(f"mask {mask.shape} {mask.dtype} is not bool {(bottom - top, right - left)}")
        if fill.shape != (*mask.shape, 3):
            raise ValueError(f"fill {fill.shape} does not match the mask {mask.shape}")
        color = fill[mask].astype(np.float32)
        if not np.isfinite(color).all():
            raise ValueError("the fill holds values that are not finite")
        return color.clip(0, 1), mask, window

    def _fill_indices(
        self,
        samples: npt.NDArray[Any],
        palette: npt.NDArray[np.uint8],
        pieces: list[Piece],
        opacities: Sequence[Opacity | None],
    ) -> npt.NDArray[np.uint8]:
        """Write palette indices for all pieces at once, so that they share the free slots; the palette after it."""
        outside = np.ones(samples.shape, dtype=bool)
        opacity, wanted, holes = [], [], []
        visible = np.unique(palette[palette[:, 3] > 0, 3])
        for (color, mask, (top, left, bottom, right)), raised in zip(pieces, opacities, strict=True):
            transparency = palette[:, 3][samples[top:bottom, left:right]]
            if raised is not None and len(visible):
                changed = mask & ~np.isnan(raised)
                between = (visible[1:].astype(np.float32) + visible[:-1]) / 2
                transparency[changed] = visible[np.searchsorted(between, raised[changed] * 255)]
            hole = mask & (transparency > 0)
            outside[top:bottom, left:right] &= ~hole
            opacity.append(transparency[hole])
            wanted.append(np.rint(color[hole[mask]] * 255).astype(np.uint8))
            holes.append(hole)
        if not holes:
            return palette
        index, palette = extend_palette(
            palette, self._used_entries(outside), np.concatenate(wanted), np.concatenate(opacity), self.bits
        )
        start = 0
        for hole, (_, _, (top, left, bottom, right)) in zip(holes, pieces, strict=True):
            count = int(hole.sum())
            samples[top:bottom, left:right][hole] = index[start : start + count]
            start += count
        return palette

    def _checked(self, window: Box | None) -> Box:
        width, height = self.size
        if window is None:
            return 0, 0, height, width
        top, left, bottom, right = window
        if not (0 <= top <= bottom <= height and 0 <= left <= right <= width):
            raise ValueError(f"window {window} does not lie in a photo of {width}x{height}")
        return window

    def _cut(self, window: Box | None) -> npt.NDArray[Any]:
        top, left, bottom, right = self._checked(window)
        return self.samples[top:bottom, left:right]

    def _used_entries(self, where: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        assert self.palette is not None
        used = np.zeros(len(self.palette), dtype=bool)
        for top, _, bottom, _ in row_bands(self.size):
            used[self.samples[top:bottom][where[top:bottom]]] = True
        return used

    def _is_key(self, samples: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Where `samples` (..., C), or (...) in one channel, are the transparent colour."""
        if CHANNELS[self.mode] == 1:
            return np.asarray(samples == self.color_key[0] if self.color_key else False)
        return np.asarray((samples == np.array(self.color_key)).all(axis=-1))

    def _around_key(
        self, new: npt.NDArray[Any], old: npt.NDArray[Any], shown: npt.NDArray[np.bool_]
    ) -> npt.NDArray[Any]:
        """Keep transparent pixels as they were, but those to be shown; opaque ones off the transparent colour."""
        collides = self._is_key(new)
        if CHANNELS[self.mode] == 1:
            new[collides] ^= 1
        else:
            new[collides, -1] ^= 1
        was_transparent = self._is_key(old) & ~shown
        new[was_transparent] = old[was_transparent]
        return new
