"""The networks. Nothing in here reads files or the network: that is `maerestore.hub`."""

from maerestore.model.autoencoder import MAEOutput, MaskedAutoencoder
from maerestore.model.config import MAEConfig

__all__ = ["MAEConfig", "MAEOutput", "MaskedAutoencoder"]
