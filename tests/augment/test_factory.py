"""`maerestore.MAEAugment` finds the host by what the calling module has imported."""

from __future__ import annotations

import pytest

from maerestore.augment import albumentations, kornia, torchvision

CLASSES = {"albumentations": albumentations, "torchvision": torchvision, "kornia": kornia}
MAKE = "\nfrom maerestore import MAEAugment\ntransform = MAEAugment(mask_ratio=0.5, p=1)"


def run(code):
    namespace = {"__name__": "somebody"}
    exec(code + MAKE, namespace)
    return namespace["transform"]


@pytest.mark.parametrize(
    ("code", "host"),
    [
        ("import albumentations as A", "albumentations"),
        ("from albumentations import Compose, HorizontalFlip", "albumentations"),
        ("import albumentations as A, torchvision, kornia", "albumentations"),  # those for data sets and geometry
        ("from torchvision.transforms import v2", "torchvision"),
        ("from torchvision import datasets, transforms", "torchvision"),
        ("from torchvision.transforms.v2 import Compose", "torchvision"),
        ("import torchvision", "torchvision"),
        ("import kornia.augmentation as K", "kornia"),
        ("from kornia.augmentation import RandomHorizontalFlip as Flip", "kornia"),
        ("import kornia", "kornia"),
    ],
)
def test_the_host_is_the_one_that_the_module_uses(code, host):
    transform = run(code)
    assert type(transform) is CLASSES[host].MAEAugment
    assert transform.p == 1


def test_what_a_function_imports_counts():
    def pipeline():
        import kornia.augmentation as K

        from maerestore import MAEAugment

        return K, MAEAugment()

    assert type(pipeline()[1]) is kornia.MAEAugment


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import math", "this module uses none of them"),
        ("import kornia.augmentation as K\nfrom torchvision.transforms import v2", "uses kornia and torchvision"),
        ("class Odd:\n def __getattr__(self, name): raise OSError(name)\nodd = Odd()", "none of them"),
    ],
)
def test_where_it_cannot_be_told_the_ways_out_are(code, words):
    with pytest.raises(ValueError, match=words) as caught:
        run(code)
    assert "give host= as one of albumentations, torchvision, kornia" in str(caught.value)
    assert "from maerestore.augment.torchvision import MAEAugment" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("host", CLASSES)
def test_the_host_can_be_named(host):
    from maerestore import MAEAugment

    assert type(MAEAugment(0.5, host=host)) is CLASSES[host].MAEAugment


def test_an_unknown_host_is_told():
    from maerestore import MAEAugment

    with pytest.raises(ValueError, match="host must be one of albumentations, torchvision, kornia, got 'keras'"):
        MAEAugment(host="keras")
