"""Loading an extractor, in this process or in another one. The settings need no torch and can be pickled."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from maerestore.features.options import FeatureOptions

if TYPE_CHECKING:
    from maerestore.features.extractor import FeatureExtractor

__all__ = ["Extractor", "ExtractorSettings", "Loaded", "Loader"]


class Extractor(Protocol):
    """The part of `maerestore.features.FeatureExtractor` that an extraction uses."""

    name: str
    dim: int
    options: FeatureOptions
    fingerprint: str
    batch_size: int

    @property
    def pixels_wanted(self) -> int: ...

    def __call__(self, images: Any) -> Any: ...


class Loader(Protocol):
    """Loads an extractor, in this process or in another one."""

    def load(self) -> Extractor: ...


@dataclass(frozen=True)
class Loaded:
    """A loader for an extractor that is loaded already."""

    extractor: Extractor

    def load(self) -> Extractor:
        """The extractor."""
        return self.extractor


@dataclass(frozen=True)
class ExtractorSettings:
    """The arguments of `FeatureExtractor.from_pretrained`, which can be sent to another process.

    Args:
        model: name or path of a model; None for the bundled one.
        options: pooling, layers, scales, size, normalisation and precision.
        device: "auto", "cpu", "cuda" or "mps".
        batch_size: images that go through the network at once, at least 1.
        whitening: path of a file that `Whitening.save` wrote; None for no whitening.
    """

    model: str | None = None
    options: FeatureOptions = field(default_factory=FeatureOptions)
    device: str = "auto"
    batch_size: int = 32
    whitening: str | None = None

    def load(self) -> FeatureExtractor:
        """Load the extractor.

        Raises:
            ModelError: the model or the whitening cannot be loaded, the model does not support the options, or the
                device is unknown.
            MaerestoreError: batch_size below 1.
        """
        from maerestore.features.extractor import FeatureExtractor

        return FeatureExtractor.from_pretrained(
            self.model,
            options=self.options,
            device=self.device,
            batch_size=self.batch_size,
            whitening=self.whitening,
        )
