"""The masked autoencoder of He et al. 2022, with free-form pixel masks beside patch masks.

Reference: "Masked Autoencoders Are Scalable Vision Learners", https://arxiv.org/abs/2111.06377.

Operations, parameter names, pixel order inside a patch (row, column, channel) and the mask convention (1 = removed)
are those of the authors' checkpoints. In the comments N is the batch, L the number of patches, K the number of visible
ones, D the width, p the patch size, C the channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maerestore.model.blocks import Block, PatchEmbed
from maerestore.model.config import MAEConfig
from maerestore.model.hiding import random_shuffle, replace_hidden, shuffle_visible_first
from maerestore.model.means import weighted_mean
from maerestore.model.positions import resample_positions, sincos_positions
from maerestore.model.pretrained import Pretrained


@dataclass
class MAEOutput:
    """What a pass through the autoencoder gives.

    Attributes:
        loss: scalar, the reconstruction error over what was hidden.
        pred: (N, L, p*p*C), the decoder's pixels, in the model's own normalisation.
        mask: (N, L) float, 1 = patch removed, 0 = patch seen by the encoder.
        ids_restore: (N, L) int64, `tokens.gather(1, ids_restore)` puts shuffled tokens back in raster order.
        latent: (N, 1 + K, D), CLS first, then the visible patches in shuffled order.
    """

    loss: Tensor
    pred: Tensor
    mask: Tensor
    ids_restore: Tensor
    latent: Tensor


class DecoderStates(NamedTuple):
    """What the decoder gives, and what it went through.

    Attributes:
        pred: (N, L, p*p*C), as `MaskedAutoencoder.decode` gives it.
        tokens: (N, D, h, w), hidden states of the patches, by their place in the grid.
        attention: (N, L, L), the mean over the heads of the last block's attention between patches, without hidden
            keys; rows sum to 1. None where it was not asked for.
    """

    pred: Tensor
    tokens: Tensor
    attention: Tensor | None


class MaskedAutoencoder(Pretrained, nn.Module):
    """Encoder on the visible patches only, light decoder on all of them.

    Convention:
        Images are (N, C, H, W) float in the model's own normalisation (`normalize`), H and W multiples of the patch
        size. `mask` is (N, L) with 1 = removed. `pixel_mask` is (N, 1, H, W) with 1 = unknown. Random numbers come
        from torch's global generator unless `noise` is given.

    Args:
        config: sizes and statistics.

    Example:
        >>> import torch
        >>> from maerestore.model import MAEConfig, MaskedAutoencoder
        >>> config = MAEConfig(image_size=32, patch_size=8, embed_dim=32, depth=1, num_heads=2,
        ...                    decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2)
        >>> out = MaskedAutoencoder(config)(torch.zeros(2, 3, 32, 48), mask_ratio=0.75)
        >>> out.pred.shape, out.mask.sum(1).tolist()
        (torch.Size([2, 24, 192]), [18.0, 18.0])
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: MAEConfig) -> None:
        super().__init__()
        self.config = c = config
        grid = (c.grid_size, c.grid_size)
        self.patch_embed = PatchEmbed(c)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, c.embed_dim))
        self.pos_embed = nn.Parameter(sincos_positions(c.embed_dim, grid), requires_grad=False)
        self.blocks = nn.ModuleList(
            Block(c.embed_dim, c.num_heads, c.mlp_ratio, c.layer_norm_eps) for _ in range(c.depth)
        )
        self.norm = nn.LayerNorm(c.embed_dim, eps=c.layer_norm_eps)

        if c.has_decoder:
            d, heads = c.decoder_embed_dim, c.decoder_num_heads
            self.decoder_embed = nn.Linear(c.embed_dim, d)
            self.mask_token = nn.Parameter(torch.zeros(1, 1, d))
            self.decoder_pos_embed = nn.Parameter(sincos_positions(d, grid), requires_grad=False)
            self.decoder_blocks = nn.ModuleList(
                Block(d, heads, c.mlp_ratio, c.layer_norm_eps) for _ in range(c.decoder_depth)
            )
            self.decoder_norm = nn.LayerNorm(d, eps=c.layer_norm_eps)
            self.decoder_pred = nn.Linear(d, c.patch_size**2 * c.in_chans)

        # Not in the state dict: the config states them, and the official checkpoints do not hold them.
        self.register_buffer("mean", torch.tensor(c.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(c.std).view(1, -1, 1, 1), persistent=False)
        if not self.cls_token.is_meta:  # no values to draw; trying imports torch's compiler, see `sincos_positions`
            self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.flatten(1))  # a view: initialised like a linear layer
        if self.patch_embed.mask_proj is not None:
            nn.init.zeros_(self.patch_embed.mask_proj.weight)
        nn.init.normal_(self.cls_token, std=0.02)
        if self.config.has_decoder:
            nn.init.normal_(self.mask_token, std=0.02)

    # --- images <-> patches -----------------------------------------------------------------------------------

    def normalize(self, images: Tensor) -> Tensor:
        """Images in [0, 1], (N, C, H, W), to the model's own normalisation."""
        return (images - self.mean) / self.std

    def denormalize(self, images: Tensor) -> Tensor:
        """The inverse of `normalize`; values may leave [0, 1]."""
        return images * self.std + self.mean

    def patchify(self, images: Tensor) -> Tensor:
        """(N, C, H, W), sides multiples of p -> (N, L, p*p*C); pixels of a patch in the order row, column, channel."""
        n, c, h, w = images.shape
        p = self.config.patch_size
        x = images.reshape(n, c, h // p, p, w // p, p)
        return x.permute(0, 2, 4, 3, 5, 1).reshape(n, (h // p) * (w // p), p * p * c)

    def unpatchify(self, patches: Tensor, size: tuple[int, int]) -> Tensor:
        """(N, L, p*p*C) -> (N, C, H, W), the inverse of `patchify`; `size` is (H, W)."""
        n, _, width = patches.shape
        p = self.config.patch_size
        h, w, c = size[0] // p, size[1] // p, width // p**2
        x = patches.reshape(n, h, w, p, p, c)
        return x.permute(0, 5, 1, 3, 2, 4).reshape(n, c, h * p, w * p)

    def hidden_patches(self, pixel_mask: Tensor) -> Tensor:
        """Which patches a pixel mask removes: (N, 1, H, W) with 1 = unknown -> (N, L) with 1 = removed.

        With `mask_embed` only patches without any known pixel are removed. A model that never saw a partly known
        patch keeps those that are at least half known (their unknown pixels hold what the caller put there).
        """
        share = F.avg_pool2d(_as_float(pixel_mask).float(), self.config.patch_size).flatten(1)  # (N, L), unknown
        one_known = 1 - 0.5 / self.config.patch_size**2
        return (share > (one_known if self.config.mask_embed else 0.5)).float()

    # --- encoder and decoder ----------------------------------------------------------------------------------

    def encode(
        self,
        images: Tensor,
        mask_ratio: float = 0.0,
        noise: Tensor | None = None,
        mask: Tensor | None = None,
        pixel_mask: Tensor | None = None,
        num_visible: int | None = None,
        hidden_noise: Tensor | None = None,
        padded: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Embed the visible patches and run the encoder on them. By default nothing is hidden.

        Args:
            images: (N, C, H, W), normalised.
            mask_ratio: share of the patches to remove, in [0, 1); used when no mask is given.
            noise: (N, L); the `int(L * (1 - mask_ratio))` patches with the lowest noise are kept.
            mask: (N, L), 1 = remove this patch; overrides `mask_ratio`. Rows may remove different numbers.
            pixel_mask: (N, 1, H, W), 1 (or another integer than 0, or True) = unknown pixel; removes `hidden_patches`
                (on top of `mask`, if given).
            num_visible: how many patches every row of `mask` keeps, when the caller knows that they are equal: spares
                a look at the data, and gives `torch.compile` static shapes.
            hidden_noise: (N, C, H, W), what stands in hidden patches where the config's `hidden` is "noise"; drawn
                where it is not given.
            padded: pad every row to all patches, rather than to the longest. More work, but it spares a GPU the wait
                for a look at the data; a compiled graph always does so.

        Returns:
            latent (N, 1 + K, D), mask (N, L), ids_restore (N, L), and key_mask (N, 1, 1, 1 + K), False where a row
            was padded to K, or None where no row was. Where hidden patches hold noise or a mean, K is L.

        Raises:
            ValueError: sizes that are no multiple of the patch size, a mask or noise of another shape, or a ratio
                outside [0, 1).
        """
        pixel_mask = self._checked(images, pixel_mask)
        n, p = len(images), self.config.patch_size
        grid = (images.shape[2] // p, images.shape[3] // p)
        mask, ids_shuffle, num_visible = self._choose_visible(images, mask_ratio, noise, mask, pixel_mask, num_visible)
        if self.config.hidden != "drop":  # every patch is seen, in raster order; some hold something else
            images = replace_hidden(images, mask, self.config.hidden, hidden_noise)
            num_visible = ids_shuffle.shape[1]
            ids_shuffle = torch.arange(num_visible, device=images.device).expand(n, -1)
        pos = resample_positions(self.pos_embed, (self.config.grid_size,) * 2, grid)  # (1, 1 + L, D)
        tokens = self.patch_embed(images, pixel_mask) + pos[:, 1:]
        num_visible, key_mask = _row_lengths(mask, num_visible, padded)
        ids_keep = ids_shuffle[:, :num_visible]  # (N, K)
        x = tokens.gather(1, ids_keep[:, :, None].expand(-1, -1, tokens.shape[2]))
        x = torch.cat([(self.cls_token + pos[:, :1]).expand(n, -1, -1), x], dim=1)  # (N, 1 + K, D)
        if key_mask is not None:  # padded slots hold tokens of hidden patches, and no weight takes a NaN out of a sum
            x = torch.where(key_mask[:, 0, 0, :, None], x, 0.0)
        for block in self.blocks:
            x = block(x, key_mask)
        return self.norm(x), mask, ids_shuffle.argsort(dim=1), key_mask

    def _choose_visible(
        self,
        images: Tensor,
        mask_ratio: float,
        noise: Tensor | None,
        mask: Tensor | None,
        pixel_mask: Tensor | None,
        num_visible: int | None,
    ) -> tuple[Tensor, Tensor, int | None]:
        """Which patches stay: mask (N, L), order (N, L) in which they come first, and how many, where that is known.

        Arguments as for `encode`.
        """
        n, length = len(images), images.shape[2] * images.shape[3] // self.config.patch_size**2
        for name, given in (("mask", mask), ("noise", noise)):
            if given is not None and given.shape != (n, length):
                raise ValueError(f"{name} must be (N, L), here {(n, length)}, got {tuple(given.shape)}")
        if pixel_mask is not None:
            hidden = self.hidden_patches(pixel_mask)
            mask = hidden if mask is None else torch.maximum(mask.float(), hidden)
        if mask is not None:
            mask = mask.float()
            return mask, shuffle_visible_first(mask), num_visible
        if not 0 <= mask_ratio < 1:
            raise ValueError(f"mask_ratio must lie in [0, 1), got {mask_ratio}")
        keep = int(length * (1 - mask_ratio))
        if noise is None and keep == length:  # nothing hidden: raster order, and no random number drawn
            noise = torch.arange(length, device=images.device).expand(n, -1)
        elif noise is None:
            noise = torch.rand(n, length, device=images.device)
        return *random_shuffle(noise, keep), keep

    def responses(self, images: Tensor) -> Tensor:
        """How much the class token attends to each patch in the last block: the attention that masks are guided by.

        Args:
            images: (N, C, H, W), normalised; nothing is hidden.

        Returns:
            (N, L), the mean over the heads; with the class token's attention to itself a row would sum to 1.
        """
        x = self._embed_all(images)
        for block in self.blocks[:-1]:
            x = block(x)
        return self._class_attention(x)

    def hidden_states(
        self, images: Tensor, layers: Sequence[int] = (-1,), attention: bool = False
    ) -> tuple[list[Tensor], Tensor | None]:
        """What the encoder makes of whole images, block by block; nothing is hidden, and nothing is drawn.

        Args:
            images: (N, C, H, W), normalised.
            layers: blocks after which tokens are taken, 0 to the depth - 1, or from the end: -1 is the last.
            attention: whether `responses` come too, from the same pass.

        Returns:
            for each of `layers` (N, 1 + L, D), class token first, after the final norm: for the last block what
            `encode` gives; and the responses (N, L), or None.

        Raises:
            ValueError: sizes that do not fit, or a layer that there is not.
        """
        depth = len(self.blocks)
        if wrong := [layer for layer in layers if not -depth <= layer < depth]:
            raise ValueError(f"layers must lie in {-depth} to {depth - 1} for {depth} blocks, got {wrong[0]}")
        wanted = [layer % depth for layer in layers]
        x, found = self._embed_all(images), {}
        for layer in range(max(wanted) + 1):
            before, x = x, self.blocks[layer](x)
            if layer in wanted:
                found[layer] = self.norm(x)
        weights = None
        if attention:
            for block in self.blocks[max(wanted) + 1 : -1]:
                x = block(x)
            weights = self._class_attention(before if max(wanted) == depth - 1 else x)
        return [found[layer] for layer in wanted], weights

    def _embed_all(self, images: Tensor) -> Tensor:
        """The tokens of whole images, in raster order after the class token: (N, 1 + L, D)."""
        self._check_sizes(images)
        p = self.config.patch_size
        grid = (images.shape[2] // p, images.shape[3] // p)
        x = torch.cat([self.cls_token.expand(len(images), -1, -1), self.patch_embed(images)], dim=1)
        return x + resample_positions(self.pos_embed, (self.config.grid_size,) * 2, grid)

    def _class_attention(self, x: Tensor) -> Tensor:
        """What the class token attends to in the last block, of that block's input: (N, 1 + L, D) -> (N, L)."""
        last = self.blocks[-1]
        assert isinstance(last, Block)
        return last.class_attention(x)[:, 1:]

    def decode(
        self, latent: Tensor, ids_restore: Tensor, grid: tuple[int, int], key_mask: Tensor | None = None
    ) -> Tensor:
        """Predict the pixels of every patch.

        Args:
            latent: (N, 1 + K, D) from `encode`.
            ids_restore: (N, L) from `encode`.
            grid: patches (down, across); their product is L.
            key_mask: from `encode`; padded slots become mask tokens.

        Returns:
            (N, L, p*p*C).

        Raises:
            ValueError: the model has no decoder.
        """
        x = self._decoder_input(latent, ids_restore, grid, key_mask)
        for block in self.decoder_blocks:
            x = block(x)
        return self.decoder_pred(self.decoder_norm(x))[:, 1:]

    def decode_states(
        self,
        latent: Tensor,
        ids_restore: Tensor,
        grid: tuple[int, int],
        key_mask: Tensor | None = None,
        layer: int = 1,
        hidden: Tensor | None = None,
    ) -> DecoderStates:
        """As `decode`, with what a refiner takes from inside the decoder.

        Args:
            latent, ids_restore, grid, key_mask: as for `decode`.
            layer: blocks that the tokens have been through, 1 to the decoder's depth.
            hidden: (N, L), 1 = no key: tokens that attention must not take from. None gives no attention.

        Returns:
            prediction, tokens and attention: see `DecoderStates`.

        Raises:
            ValueError: the model has no decoder, or not so many blocks.
        """
        x = self._decoder_input(latent, ids_restore, grid, key_mask)
        if not 1 <= layer <= len(self.decoder_blocks):
            raise ValueError(f"layer must lie in 1 to {len(self.decoder_blocks)}, got {layer}")
        tokens, attention = x, None
        for depth, block in enumerate(self.decoder_blocks, 1):
            assert isinstance(block, Block)
            if depth == len(self.decoder_blocks) and hidden is not None:
                attention = block.attn.mean_weights(block.norm1(x))[:, 1:, 1:]  # (N, L, L), without the class token
                attention = attention * (1 - hidden[:, None]) + 1e-9  # where nothing is known: from all alike
                attention = attention / attention.sum(-1, keepdim=True)
            x = block(x)
            tokens = x if depth == layer else tokens
        pred = self.decoder_pred(self.decoder_norm(x))[:, 1:]
        return DecoderStates(pred, tokens[:, 1:].transpose(1, 2).unflatten(2, grid), attention)

    def _decoder_input(
        self, latent: Tensor, ids_restore: Tensor, grid: tuple[int, int], key_mask: Tensor | None
    ) -> Tensor:
        """Tokens in raster order after the class token, mask tokens where nothing was seen: (N, 1 + L, D)."""
        if not self.config.has_decoder:
            raise ValueError("this model holds an encoder only: it gives features, and cannot reconstruct")
        x = self.decoder_embed(latent)
        n, t, d = x.shape
        length = ids_restore.shape[1]
        mask_token = self.mask_token.to(x.dtype)
        if key_mask is not None:
            x = torch.where(key_mask[:, 0, 0, :, None], x, mask_token)
        tokens = torch.cat([x[:, 1:], mask_token.expand(n, length + 1 - t, d)], dim=1)  # (N, L, D), shuffled
        tokens = tokens.gather(1, ids_restore[:, :, None].expand(-1, -1, d))
        x = torch.cat([x[:, :1], tokens], dim=1)
        x = x + resample_positions(self.decoder_pos_embed, (self.config.grid_size,) * 2, grid)
        return x

    def forward(
        self,
        images: Tensor,
        mask_ratio: float = 0.75,
        noise: Tensor | None = None,
        mask: Tensor | None = None,
        pixel_mask: Tensor | None = None,
        pixel_weight: Tensor | None = None,
        num_visible: int | None = None,
        hidden_noise: Tensor | None = None,
    ) -> MAEOutput:
        """Hide, encode, decode, compare.

        Args:
            images: (N, C, H, W), normalised.
            mask_ratio, noise, mask, pixel_mask, num_visible, hidden_noise: what is hidden, as for `encode`.
            pixel_weight: (N, 1, H, W), as for `loss`; with a pixel mask, by default 1 in what the encoder did not see.

        Returns:
            loss, prediction, mask, order and latent: see `MAEOutput`.

        Raises:
            ValueError: as `encode`, or the model has no decoder.

        Example:
            >>> import torch
            >>> from maerestore.model import MAEConfig, MaskedAutoencoder
            >>> config = MAEConfig(image_size=32, patch_size=8, embed_dim=32, depth=1, num_heads=2,
            ...                    decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2)
            >>> hole = torch.zeros(1, 1, 32, 32, dtype=torch.bool)
            >>> hole[:, :, 8:16] = True
            >>> MaskedAutoencoder(config)(torch.zeros(1, 3, 32, 32), pixel_mask=hole).mask.sum().item()
            4.0
        """
        latent, mask, ids_restore, key_mask = self.encode(
            images, mask_ratio, noise, mask, pixel_mask, num_visible, hidden_noise
        )
        p = self.config.patch_size
        pred = self.decode(latent, ids_restore, (images.shape[2] // p, images.shape[3] // p), key_mask)
        if pixel_weight is None and pixel_mask is not None:
            pixel_weight = self.hidden_pixels(mask, pixel_mask)
        return MAEOutput(self.loss(images, pred, mask, pixel_weight), pred, mask, ids_restore, latent)

    def hidden_pixels(self, mask: Tensor, pixel_mask: Tensor) -> Tensor:
        """All pixels that the encoder did not see: (N, 1, H, W), 1 = in a removed patch or unknown."""
        n, _, h, w = pixel_mask.shape
        p = self.config.patch_size
        removed = mask.reshape(n, 1, h // p, w // p)
        return torch.maximum(F.interpolate(removed, scale_factor=float(p)), _as_float(pixel_mask).float())

    def loss(self, images: Tensor, pred: Tensor, mask: Tensor, pixel_weight: Tensor | None = None) -> Tensor:
        """Mean squared error over the removed patches, or weighted by pixel.

        Args:
            images: (N, C, H, W), normalised.
            pred: (N, L, p*p*C).
            mask: (N, L), 1 = removed.
            pixel_weight: (N, 1, H, W), at least 0; replaces `mask`. The loss is then the mean over the images of
                each one's weighted mean, so that it does not depend on how a batch is split over processes. An image
                without weight counts 0.

        Returns:
            scalar float32, in the units of normalised pixels squared; of pixels normalised by patch where the config
            says `norm_pix_loss`.
        """
        target = self.patchify(images)
        if self.config.norm_pix_loss:
            target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6) ** 0.5
        error = (pred.float() - target) ** 2  # (N, L, p*p*C)
        if pixel_weight is None:
            return (error.mean(-1) * mask).sum() / mask.sum().clamp(min=1)
        return weighted_mean(error, self.patchify(pixel_weight.expand(-1, images.shape[1], -1, -1)))

    def reconstruct(
        self,
        images: Tensor,
        mask: Tensor | None = None,
        pixel_mask: Tensor | None = None,
        hidden_noise: Tensor | None = None,
    ) -> Tensor:
        """The decoder's picture.

        Where the model predicts pixels normalised by patch, each patch takes mean and variance from `images`: let
        `images` hold a smooth guess of unknown pixels.

        Args:
            images: (N, C, H, W), normalised.
            mask, pixel_mask, hidden_noise: what is hidden, as for `encode`; by default nothing.

        Returns:
            (N, C, H, W) float32, every pixel predicted, normalised like `images`.

        Raises:
            ValueError: as `encode`, or the model has no decoder.
        """
        p = self.config.patch_size
        grid = (images.shape[2] // p, images.shape[3] // p)
        latent, _, ids_restore, key_mask = self.encode(
            images, mask=mask, pixel_mask=pixel_mask, hidden_noise=hidden_noise
        )
        pred = self.decode(latent, ids_restore, grid, key_mask)
        return self.unpatchify(self.predicted_pixels(images, pred), (images.shape[2], images.shape[3]))

    def predicted_pixels(self, images: Tensor, pred: Tensor) -> Tensor:
        """The decoder's output in the normalisation of `images`: (N, L, p*p*C) float32.

        The identity unless the model predicts pixels normalised by patch; then each patch gets its mean and variance
        from `images`.
        """
        pred = pred.float()
        if not self.config.norm_pix_loss:
            return pred
        target = self.patchify(images.float())
        return pred * (target.var(-1, keepdim=True) + 1e-6) ** 0.5 + target.mean(-1, keepdim=True)

    def _checked(self, images: Tensor, pixel_mask: Tensor | None) -> Tensor | None:
        """Check sizes; the pixel mask comes back as float."""
        self._check_sizes(images)
        if pixel_mask is None:
            return None
        expected = (len(images), 1, *images.shape[2:])
        if pixel_mask.shape != expected:
            raise ValueError(f"pixel_mask must be (N, 1, H, W), here {expected}, got {tuple(pixel_mask.shape)}")
        return _as_float(pixel_mask)

    def _check_sizes(self, images: Tensor) -> None:
        p, c = self.config.patch_size, self.config.in_chans
        if images.ndim != 4 or images.shape[1] != c:
            raise ValueError(f"images must be (N, {c}, H, W), got {tuple(images.shape)}")
        if images.shape[2] % p or images.shape[3] % p or 0 in images.shape:
            raise ValueError(f"image size {tuple(images.shape[2:])} is no multiple of the patch size {p}")


def _as_float(pixel_mask: Tensor) -> Tensor:
    """1 = unknown, whatever the kind of mask: those that are not float are bool, or 8 bits with 255 for unknown."""
    return pixel_mask if pixel_mask.is_floating_point() else (pixel_mask != 0).float()


def _row_lengths(mask: Tensor, num_visible: int | None, padded: bool) -> tuple[int, Tensor | None]:
    """How many patches K the rows of a batch get, and (N, 1, 1, 1 + K) False where a row is padded to K, if one is.

    Args:
        mask: (N, L), 1 = removed.
        num_visible: K, where it is known that no row is padded.
        padded: as for `MaskedAutoencoder.encode`.
    """
    if num_visible is not None:
        return num_visible, None
    length = mask.shape[1]
    counts = length - mask.sum(1).long()  # (N,)
    static = padded or torch.compiler.is_compiling()
    num_visible = length if static else int(counts.max())
    if not static and int(counts.min()) == num_visible:
        return num_visible, None
    slots = torch.arange(1 + num_visible, device=mask.device)
    return num_visible, (slots[None] <= counts[:, None])[:, None, None]  # the class token is always real
