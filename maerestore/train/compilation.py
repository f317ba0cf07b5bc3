"""What is compiled for training: the blocks of transformers.

(In pretraining also the cutting of crops; in the restorer's, at one side after the other, its smooth fill, refiner,
perceptual network and discriminator.)

One block is compiled in seconds and its code serves all that are alike, where a whole network takes minutes, once for
every shape that a run goes through. What is left is a few operations on pictures; a loss compiled for any size was
refused by the code generator of torch 2.11.
"""

from __future__ import annotations

from torch import nn

from maerestore.model.blocks import Block


def compile_blocks(model: nn.Module) -> None:
    """Compile the transformer blocks in a model, in place; names and weights stay what they are.

    For any number of tokens, as it differs from batch to batch.
    """
    for module in model.modules():
        if isinstance(module, Block):
            module.compile(dynamic=True)
