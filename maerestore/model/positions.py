"""Two-dimensional sin-cos position tables, and how they stretch to other image sizes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def sincos_positions(dim: int, grid: tuple[int, int], device: torch.device | str | None = None) -> Tensor:
    """The fixed position table of the paper: (1, 1 + L, dim), zeros for CLS, the column's half first.

    Args:
        dim: width of the tokens, a multiple of 4.
        grid: patches (down, across).
        device: of the table; torch's default where it is not given. On "meta" the table has a shape and no values.
    """
    if torch.device(device or torch.get_default_device()).type == "meta":
        # There torch's arange is a Python reference, whose first call imports torch's compiler: a second.
        return torch.empty(1, 1 + grid[0] * grid[1], dim, device="meta")

    def one_axis(positions: Tensor) -> Tensor:  # (L,) -> (L, dim / 2)
        omega = 1.0 / 10000 ** (torch.arange(dim // 4, dtype=torch.float64, device=device) / (dim / 4))
        angles = positions.double()[:, None] * omega[None]
        return torch.cat([angles.sin(), angles.cos()], dim=1)

    down, across = (torch.arange(length, device=device) for length in grid)
    rows, columns = torch.meshgrid(down, across, indexing="ij")
    table = torch.cat([one_axis(columns.flatten()), one_axis(rows.flatten())], dim=1).float()
    return torch.cat([torch.zeros_like(table[:1]), table])[None]


def resample_positions(table: Tensor, trained: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Stretch a position table to another grid by bicubic interpolation; the CLS row stays.

    Args:
        table: (1, 1 + L, D), made for the grid `trained`.
        trained: patches (down, across) of the table.
        grid: patches (down, across) wanted.

    Returns:
        (1, 1 + grid[0] * grid[1], D); the table itself when the grids are equal.
    """
    if trained == grid:
        return table
    square = table[:, 1:].reshape(1, *trained, -1).permute(0, 3, 1, 2).float()
    square = F.interpolate(square, size=grid, mode="bicubic", align_corners=False)
    return torch.cat([table[:, :1], square.flatten(2).transpose(1, 2).to(table.dtype)], dim=1)
