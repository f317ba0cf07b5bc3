"""The whole fill as one module of tensor operations, for graphs that run without this package.

One window: a square around all holes, brought to a fixed side, filled there, brought back, pasted. So the networks see
one size, whatever the photo's, and every shape follows from the photo's alone; parts of the window beyond the photo
count as unknown. Windows are cut out and pasted by matrix products over whole rows and columns: no shape depends on the
mask. `maerestore.inpaint.pipeline` is the thorough version of this: a window for each hole, an exact harmonic fill,
texture from known patches.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maerestore.inpaint.blend import BlendCurve
from maerestore.inpaint.coarse import reconstruct
from maerestore.model import MaskedAutoencoder
from maerestore.model.refiner import Refiner
from maerestore.model.restorer import Restorer, shrink
from maerestore.model.smooth import smooth_fill

CONTEXT = 2.0  # side of the window, as a multiple of what the holes span


class FillGraph(nn.Module):
    """Photo and mask in, filled photo out; one photo at a time.

    The autoencoder's fill is joined to the smooth one by distance from the known pixels, as in the pipeline; a refiner,
    where there is one, goes over it.

    Args:
        autoencoder: RGB, with a decoder.
        refiner: made for it, or None.
        side: pixels of the square window that the refiner sees, a multiple of `size`. Holes that together span up to
            half of it are filled at the photo's own resolution, wider ones in a window that is shrunk to it.
        size: pixels of the square that the autoencoder sees, a multiple of its patch size.
        curve: share of the autoencoder by distance.
        smooth: sigma of a low-pass over the autoencoder's fill, in its pixels.

    Raises:
        ValueError: networks or sizes that do not fit each other.

    Example:
        >>> from maerestore.model import MAEConfig
        >>> config = MAEConfig(image_size=32, patch_size=8, embed_dim=32, depth=1, num_heads=2,
        ...                    decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2)
        >>> graph = FillGraph(MaskedAutoencoder(config).eval(), None, side=32, size=32)
        >>> image = torch.full((1, 3, 40, 70), 9, dtype=torch.uint8)
        >>> mask = torch.zeros(1, 1, 40, 70, dtype=torch.uint8)
        >>> mask[..., 8:20, 30:50] = 1
        >>> filled = graph(image, mask)
        >>> filled.shape, filled.dtype, bool((filled[(mask == 0).expand(-1, 3, -1, -1)] == 9).all())
        (torch.Size([1, 3, 40, 70]), torch.uint8, True)
    """

    def __init__(
        self,
        autoencoder: MaskedAutoencoder,
        refiner: Refiner | None,
        side: int,
        size: int,
        curve: BlendCurve | None = None,
        smooth: float = 0.0,
    ) -> None:
        super().__init__()
        config = autoencoder.config
        if config.in_chans != 3 or not config.has_decoder or config.hidden == "noise":
            raise ValueError("a graph is for RGB models that reconstruct, without noise in hidden patches")
        if size < config.patch_size or size % config.patch_size:
            raise ValueError(f"size must be a multiple of the patch size {config.patch_size}, got {size}")
        if side < size or side % size:
            raise ValueError(f"side must be a multiple of {size}, the side that the autoencoder sees, got {side}")
        self.autoencoder = autoencoder
        self.restorer = None if refiner is None else Restorer(autoencoder, refiner)
        self.side, self.size, self.curve, self.smooth = side, size, curve or BlendCurve(), smooth

    @torch.no_grad()
    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        """Fill a photo.

        Args:
            image: (1, 3, H, W) uint8 RGB.
            mask: (1, 1, H, W) uint8, not 0 = hole. Without any known pixel the fill means nothing.

        Returns:
            (1, 3, H, W) uint8; `image` itself, bit for bit, where the mask is 0.
        """
        hole = (mask > 0)[0, 0]  # (H, W)
        height, width = _count(hole[:, 0]), _count(hole[0])
        top, bottom = _extent(hole.any(1))
        left, right = _extent(hole.any(0))
        # Not larger than the photo: nothing is gained from that, and small photos are enlarged to what models know.
        span = torch.maximum(bottom - top, right - left)
        side = torch.minimum((CONTEXT * span).clamp(min=self.side), torch.maximum(height, width))
        rows = _Line(hole[:, 0], top, bottom, side, self.side)
        columns = _Line(hole[0], left, right, side, self.side)

        known = 1 - hole.float()
        seen = torch.cat([image[0] / 255 * known, known[None]])  # (4, H, W)
        seen = rows.shrinking() @ seen @ columns.shrinking().T  # (4, S, S)
        share = seen[3:]  # how much of each pixel is known
        unknown = (share < 0.5).float()
        colours = seen[:3] / share.clamp(min=1e-6)
        filled = torch.where(unknown > 0, self._fill(colours[None], unknown[None])[0], colours)  # (3, S, S)

        filled = rows.enlarging() @ filled @ columns.enlarging().T  # (3, H, W), of meaning in the window
        pixels = (filled.clamp(0, 1) * 255).round().to(torch.uint8)
        return torch.where(hole, pixels, image[0])[None]

    def _fill(self, colours: Tensor, unknown: Tensor) -> Tensor:
        """(1, 3, S, S) in [0, 1] and (1, 1, S, S), 1 = unknown -> (1, 3, S, S) in [0, 1]."""
        model, seen = self.autoencoder, (self.size, self.size)
        photo = model.normalize(colours)
        smooth = smooth_fill(photo, unknown)
        picture, hidden = shrink(model.denormalize(smooth), unknown, seen)
        share = self._at_side(self._share(hidden), "bilinear")
        if self.restorer is not None:
            return model.denormalize(self.restorer(photo, unknown, smooth, seen, share).sharp).clamp(0, 1)
        coarse = reconstruct(model, picture, hidden)
        if self.smooth > 0:
            blur = _gaussian(self.size, self.smooth)
            coarse = blur @ coarse @ blur.T
        base = model.denormalize(smooth)
        return (base + share * (self._at_side(coarse, "bicubic") - base)).clamp(0, 1)

    def _at_side(self, picture: Tensor, mode: str) -> Tensor:
        """(1, C, s, s) -> (1, C, S, S)."""
        if self.size == self.side:
            return picture
        return F.interpolate(picture, size=(self.side, self.side), mode=mode, align_corners=False)

    def _share(self, hidden: Tensor) -> Tensor:
        """The autoencoder's share by distance from the known pixels: (1, 1, s, s) -> the same shape."""
        distance, share = distance_to_known(hidden), torch.full_like(hidden, self.curve.share[0])
        knots = zip(self.curve.distance, self.curve.share, strict=True)
        for (near, first), (far, last) in pairwise(knots):
            step = ((distance - near) / (far - near)).clamp(0, 1) if far > near else (distance >= far).float()
            share = share + (last - first) * step
        return share


def distance_to_known(unknown: Tensor) -> Tensor:
    """Distance in pixels from each unknown pixel to the nearest known one: (1, 1, H, W), 1 = unknown -> the same shape.

    Exact, Euclidean; as far as the picture is wide where nothing is known. Takes H * W * (H + W) numbers of memory.

    Example:
        >>> distance_to_known(torch.tensor([[[[0.0, 1.0, 1.0], [1.0, 1.0, 1.0]]]])).tolist()
        [[[[0.0, 1.0, 2.0], [1.0, 1.4142135381698608, 2.2360680103302]]]]
    """
    height, width = unknown.shape[2:]
    far = float((height**2 + width**2) ** 0.5)
    y, x = torch.arange(height).float(), torch.arange(width).float()
    down = (y[:, None] - y[None]).abs()[:, :, None] + far * unknown[0, 0]  # (row, row looked at, column)
    nearest = down.amin(1).clamp(max=far)  # (H, W), within the column
    square = (x[:, None] - x[None]).square() + nearest.square()[:, None, :]  # (row, column, column looked at)
    return square.amin(2).sqrt().clamp(max=far)[None, None]


class _Line:
    """A window along one axis of the photo: it spans `side` pixels of it, shown as `count` pixels.

    Both ways are antialiased interpolation at pixel centres: at equal sizes each pixel is itself.

    Args:
        pixels: (length,), any tensor as long as the axis.
        first, last: float scalars, where the holes begin and end.
        side: float scalar, of whole value.
        count: pixels of the window.
    """

    def __init__(self, pixels: Tensor, first: Tensor, last: Tensor, side: Tensor, count: int) -> None:
        length = _count(pixels)
        inside = torch.minimum(((first + last - side) / 2).floor(), length - side).clamp(min=0)
        self.start = torch.where(side > length, ((length - side) / 2).floor(), inside)
        self.side, self.length, self.count = side, length, count
        self.places = _places(pixels)

    def shrinking(self) -> Tensor:
        """Weights (count, length); rows that are centred beyond the photo are 0."""
        step = self.side / self.count  # pixels of the photo for one of the window's
        centres = self.start + (torch.arange(self.count) + 0.5) * step - 0.5
        weights = (1 - (self.places - centres[:, None]).abs() / step.clamp(min=1)).clamp(min=0)  # a triangle
        weights = weights / weights.sum(1, keepdim=True).clamp(min=1e-6)
        return weights * ((centres > -0.5) & (centres < self.length - 0.5))[:, None]

    def enlarging(self) -> Tensor:
        """Weights (length, count)."""
        step = self.count / self.side  # pixels of the window for one of the photo's
        centres = ((self.places - self.start + 0.5) * step - 0.5).clamp(0, self.count - 1)
        weights = _cubic((torch.arange(self.count) - centres[:, None]).abs() / step.clamp(min=1))
        return weights / weights.sum(1, keepdim=True)


def _cubic(distance: Tensor) -> Tensor:
    """Keys' cubic convolution with a = -0.5 (https://doi.org/10.1109/TASSP.1981.1163711)."""
    near = (1.5 * distance - 2.5) * distance.square() + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))


def _gaussian(length: int, sigma: float) -> Tensor:
    """A low-pass along an axis: (length, length), rows sum to 1."""
    offsets = torch.arange(length)[:, None] - torch.arange(length)
    weights = torch.exp(-0.5 * (offsets / sigma) ** 2)
    return weights / weights.sum(1, keepdim=True)


def _extent(marked: Tensor) -> tuple[Tensor, Tensor]:
    """(length,) bool -> the first and one past the last hole; the last pixel if there is none."""
    places, length = _places(marked), _count(marked)
    first = torch.minimum(torch.where(marked, places, length).amin(0), length - 1)
    return first, torch.maximum(torch.where(marked, places + 1, 0.0).amax(0), first + 1)


def _places(pixels: Tensor) -> Tensor:
    """0, 1, 2, ... along an axis, in float32. A sum and no range: lengths stay out of the traced graph."""
    return torch.ones_like(pixels, dtype=torch.float32).cumsum(0) - 1


def _count(pixels: Tensor) -> Tensor:
    """The length of an axis as a float32 scalar."""
    return torch.ones_like(pixels, dtype=torch.float32).sum()
