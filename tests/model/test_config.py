import json

import pytest

from maerestore.model import MAEConfig


def test_defaults_are_vit_base_with_sixteen_pixel_patches():
    config = MAEConfig()
    assert (config.image_size, config.patch_size) == (224, 16)
    assert (config.embed_dim, config.depth, config.num_heads) == (768, 12, 12)
    assert (config.decoder_embed_dim, config.decoder_depth, config.decoder_num_heads) == (512, 8, 16)
    assert config.grid_size == 14


def test_a_config_survives_json():
    config = MAEConfig(image_size=64, patch_size=8, in_chans=1, mean=(0.4,), std=(0.2,), mask_embed=True, mlp_ratio=2.0)
    again = MAEConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert hash(again) == hash(config)
    assert isinstance(again.mean, tuple)


def test_an_unknown_setting_is_named():
    with pytest.raises(ValueError, match="surprise"):
        MAEConfig.from_dict({"surprise": 1})


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"image_size": 0}, "image_size"), ({"image_size": -16}, "image_size"), ({"image_size": 224.0}, "image_size"),
        ({"depth": True}, "depth"), ({"num_heads": "12"}, "num_heads"), ({"image_size": 100}, "patch_size"),
        ({"in_chans": 2}, "in_chans"), ({"in_chans": 1}, "mean"), ({"embed_dim": 770}, "embed_dim"),
        ({"decoder_embed_dim": 100}, "decoder_embed_dim"), ({"embed_dim": 6, "num_heads": 1}, "embed_dim"),
        ({"mean": (0.5,)}, "mean"), ({"std": (0.1, 0.1)}, "std"), ({"std": (0.1, 0.0, 0.1)}, "std"),
        ({"std": (0.1, -1.0, 0.1)}, "std"), ({"mean": ["a", "b", "c"]}, "float"), ({"mean": 1}, "settings"),
    ],
    ids=str,
)  # fmt: skip
def test_settings_that_do_not_fit_are_refused(settings, named):
    with pytest.raises(ValueError, match=named):
        MAEConfig.from_dict(settings)


@pytest.mark.parametrize(
    "settings",
    [{"mlp_ratio": 0}, {"mlp_ratio": -1.0}, {"mlp_ratio": "4"}, {"mlp_ratio": None}, {"mlp_ratio": float("nan")},
     {"mlp_ratio": 10**400}, {"layer_norm_eps": 10**400}, {"layer_norm_eps": 2}, {"mlp_ratio": float("inf")},
     {"in_chans": 3.0}, {"std": (float("nan"),) * 3}, {"norm_pix_loss": "no"},
     {"norm_pix_loss": True, "patch_size": 1, "in_chans": 1, "mean": (0.5,), "std": (0.5,)}],
    ids=str,
)  # fmt: skip
def test_settings_that_cannot_be_built_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        MAEConfig.from_dict(settings)
