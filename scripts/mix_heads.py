"""Give the refiner's sharp picture a share of its mean one, in the weights: a linear head makes both.

    python scripts/mix_heads.py runs/restorer/model --share 0.4
    python scripts/mix_heads.py runs/restorer/model --share 0       # as it was trained again, to train it on

What an adversary teaches is sharp where the network knows what is there, and wrong where it guesses; the mean picture
is right on average and blurred. As between the networks of ESRGAN (Wang et al. 2018, https://arxiv.org/abs/1809.00219,
section 3.4), what lies between the two has less error and looks as good. The model is changed in place, and its config
says by how much. Choose the share on photographs kept aside, anew after each training.
"""

import argparse
import sys
from pathlib import Path

import torch

from maerestore.errors import MaerestoreError
from maerestore.hub.refiner import load_refiner, read_refiner_notes, save_refiner
from maerestore.model.refiner import Refiner

SHARE = "mean_share"  # in the notes on the refiner's training


@torch.no_grad()
def mix(refiner: Refiner, share: float, before: float = 0.0) -> None:
    """Let `sharp` be what was trained and `share` of `mean`, where it has a share of `before` now."""
    for values in (refiner.head.weight, refiner.head.bias):
        assert values is not None
        mean, sharp = values.chunk(2)
        sharp.lerp_(mean, (share - before) / (1 - before))


def main(argv: list[str] | None = None) -> int:
    """Run the script."""
    assert __doc__ is not None
    usage = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=usage, allow_abbrev=False)
    parser.add_argument("model", type=Path, metavar="FOLDER", help="model with a refiner")
    parser.add_argument("--share", type=float, required=True, help="of the mean picture, in [0, 1)")
    args = parser.parse_args(argv)
    try:
        if not 0 <= args.share < 1:
            raise MaerestoreError(f"--share must lie in [0, 1), got {args.share:g}")
        refiner, notes = load_refiner(args.model), read_refiner_notes(args.model)
        if refiner is None:
            raise MaerestoreError(f"{args.model}: has no refiner")
        before = notes.get(SHARE, 0.0)
        if not isinstance(before, (int, float)) or not 0 <= before < 1:
            raise MaerestoreError(f"{args.model}: {SHARE} in its config is no number in [0, 1): {before!r}")
        mix(refiner, args.share, before)
        save_refiner(refiner, args.model, notes | {SHARE: args.share})
    except MaerestoreError as err:
        print(f"mix_heads: {err}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
