"""What makes an extractor, in this process or in another one: cheap to import, and sent to other machines."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from maerestore.features.options import FeatureOptions

if TYPE_CHECKING:
    from maerestore.features.extractor import FeatureExtractor

__all__ = ["Extractor", "ExtractorSettings", "Loaded", "Loader"]


class Extractor(Protocol):
    """What a run asks of a `maerestore.features.FeatureExtractor`."""

    name: str
    dim: int
    options: FeatureOptions
    fingerprint: str
    batch_size: int

    @property
    def pixels_wanted(self) -> int: ...

    def __call__(self, images: Any) -> Any: ...


class Loader(Protocol):
    """What makes an extractor, here or in another process."""

    def load(self) -> Extractor: ...


@dataclass(frozen=True)
class Loaded:
    """An extractor that is there already, where a loader is asked for."""

    extractor: Extractor

    def load(self) -> Extractor:
        """The extractor."""
        return self.extractor


@dataclass(frozen=True)
class ExtractorSettings:
    """Arguments of `FeatureExtractor.from_pretrained`; cheap, and can be sent to another process.

    Args:
        model: None for the bundled one.
        options: pooling, layers, sizes.
        device: "auto", "cpu", "cuda" or "mps".
        batch_size: images that go through the network at once.
        whitening: a file that `Whitening.save` wrote.
    """

    model: str | None = None
    options: FeatureOptions = field(default_factory=FeatureOptions)
    device: str = "auto"
    batch_size: int = 32
    whitening: str | None = None

    def load(self) -> FeatureExtractor:
        """Load the extractor.

        Raises:
            ModelError: no such model, options that it cannot give, no such whitening or device.
        """
        from maerestore.features.extractor import FeatureExtractor

        return FeatureExtractor.from_pretrained(
            self.model,
            options=self.options,
            device=self.device,
            batch_size=self.batch_size,
            whitening=self.whitening,
        )
