"""One encoder, nothing hidden: an image has the same feature wherever it stands, and the libraries' own."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from maerestore.errors import MaerestoreError
from maerestore.features import FeatureExtractor, FeatureOptions, Whitening
from maerestore.features.backbone import AutoencoderBackbone, TimmBackbone, timm_backbone
from maerestore.hub.errors import ModelError
from maerestore.hub.save import save_autoencoder


@pytest.fixture
def extractor(tiny_model):
    def make(batch_size: int = 32, whitening: Any = None, seed: int = 0, **fields: Any) -> FeatureExtractor:
        options = FeatureOptions(**{"precision": "fp32", **fields})
        backbone = AutoencoderBackbone(tiny_model(seed))
        return FeatureExtractor(backbone, options, device="cpu", batch_size=batch_size, whitening=whitening)

    return make


def pictures(n: int = 6, seed: int = 0) -> list[np.ndarray]:
    """Of four shapes, so that batches are formed out of order."""
    rng = np.random.default_rng(seed)
    shapes = [(32, 32), (40, 61), (90, 30), (33, 33)]
    return [rng.integers(0, 256, (*shapes[i % 4], 3), dtype=np.uint8) for i in range(n)]


@pytest.mark.parametrize("pooling", ["cls", "mean", "max", "gem", "attention", "cls+mean"])
def test_an_image_has_the_same_feature_alone_in_any_batch_and_order(extractor, pooling):
    images = pictures(9)
    alone = torch.cat([extractor(pooling=pooling)(image) for image in images])
    assert (alone.norm(dim=1) - 1).abs().max() < 1e-5
    assert len({tuple(row) for row in alone.tolist()}) == 9  # and each image another one
    for batch_size in (1, 2, 5, 32):
        torch.testing.assert_close(extractor(batch_size, pooling=pooling)(images), alone, atol=1e-5, rtol=0)
    order = [4, 8, 0, 2, 1, 7, 6, 3, 5]
    torch.testing.assert_close(extractor(4)([images[i] for i in order]), extractor()(images)[order], atol=1e-5, rtol=0)


def test_in_bf16_the_same_within_its_tolerance(extractor):
    images = pictures(9)
    exact, half = extractor()(images), extractor(4, precision="bf16")
    assert half.bf16
    torch.testing.assert_close(half(images), exact, atol=2e-2, rtol=0)
    torch.testing.assert_close(torch.cat([half(image) for image in images]), half(images), atol=2e-2, rtol=0)


def test_nothing_is_hidden_and_nothing_drawn(extractor):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = extractor()(pictures())
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(extractor()(pictures()), first)


def test_every_kind_of_image_gives_the_same(extractor, tmp_path: Path):
    array = pictures(1)[0]
    Image.fromarray(array).save(tmp_path / "a.png")
    content = io.BytesIO()
    Image.fromarray(array).save(content, "PNG")
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    same = [
        tmp_path / "a.png", str(tmp_path / "a.png"), content.getvalue(), Image.fromarray(array), array, tensor,
        tensor.float() / 255, array.astype(np.float32) / 255,
        np.dstack([array, np.full(array.shape[:2], 255, np.uint8)]),
    ]  # fmt: skip
    features = extractor()(same)
    torch.testing.assert_close(features, features[:1].expand(len(same), -1), atol=1e-5, rtol=0)
    torch.testing.assert_close(extractor()(torch.stack([tensor, tensor])), features[:2], atol=1e-5, rtol=0)
    assert extractor()([]).shape == (0, 32)


def test_a_folder_and_a_tar_stand_for_their_images(extractor, tmp_path: Path, monkeypatch):
    images = pictures(5)
    (tmp_path / "photos").mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"photos/{number}.png")
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        tar.add(tmp_path / "photos", "photos")
    expected = extractor()(images)
    monkeypatch.setattr("maerestore.features.extractor._DECODED", 3)
    found = extractor()([images[4], tmp_path / "photos", str(tmp_path / "shard.tar")])
    torch.testing.assert_close(found, torch.cat([expected[4:], expected, expected]), atol=1e-5, rtol=0)
    assert len(extractor(pooling="patch")(tmp_path / "photos")) == 5
    monkeypatch.setattr("maerestore.features.extractor._DECODED", 256)
    monkeypatch.setattr("maerestore.features.extractor._DECODED_BYTES", images[0].nbytes)
    given, extracting = [], FeatureExtractor.extract
    monkeypatch.setattr(FeatureExtractor, "extract", lambda self, x: given.append(len(x)) or extracting(self, x))
    torch.testing.assert_close(extractor()(tmp_path / "photos"), expected, atol=1e-5, rtol=0)
    assert given == [2, 1, 1, 1]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no image"):
        extractor()(tmp_path / "empty")


def test_arrays_of_pillow_are_taken_without_a_warning(extractor, recwarn):
    array = np.asarray(Image.fromarray(pictures(1)[0]))
    assert not array.flags.writeable
    torch.testing.assert_close(extractor()(array), extractor()(pictures(1)[0]), atol=1e-5, rtol=0)
    assert not [warning for warning in recwarn if "not writable" in str(warning.message)]


def test_gray_images_count_as_rgb(extractor):
    gray = pictures(1)[0][..., 0]
    rgb = np.repeat(gray[..., None], 3, axis=2)
    pil, tensor = Image.fromarray(gray), torch.from_numpy(gray)[None]
    features = extractor()([rgb, gray, gray[..., None], pil, tensor])
    torch.testing.assert_close(features, features[:1].expand(5, -1), atol=1e-5, rtol=0)


def test_layers_and_scales_are_parts_side_by_side(extractor):
    images = pictures(4)
    both = extractor(layers=(0, -1), normalize=False)(images)
    assert both.shape == (4, 64)
    torch.testing.assert_close(both[:, :32], extractor(layers=0, normalize=False)(images), atol=1e-5, rtol=0)
    torch.testing.assert_close(both[:, 32:], extractor(layers=1, normalize=False)(images), atol=1e-5, rtol=0)
    wide = extractor(scales=(0.5, 1.0), normalize=False)(images)
    torch.testing.assert_close(wide[:, :32], extractor(size=16, normalize=False)(images), atol=1e-5, rtol=0)
    torch.testing.assert_close(wide[:, 32:], extractor(normalize=False)(images), atol=1e-5, rtol=0)
    parts = extractor(layers=(0, -1))(images)
    torch.testing.assert_close(parts[:, :32].norm(dim=1), torch.full((4,), 0.5**0.5), atol=1e-5, rtol=0)


def test_patch_tokens_come_in_the_images_own_grid(extractor):
    images = pictures(3)
    grids = extractor(pooling="patch", normalize=False)(images)
    assert [grid.shape for grid in grids] == [(4, 4, 32), (3, 5, 32), (7, 2, 32)]
    means = torch.stack([grid.mean((0, 1)) for grid in grids])
    torch.testing.assert_close(means, extractor(normalize=False)(images), atol=1e-5, rtol=0)


@pytest.mark.parametrize("normalize", [True, False])
def test_patch_tokens_can_be_trained_on(extractor, normalize):
    [grid] = extractor(pooling="patch", normalize=normalize)(pictures(1))
    torch.nn.Linear(32, 2)(grid).sum().backward()


def test_attention_pooling_follows_the_class_token(extractor, tiny_model):
    model, image = tiny_model(), pictures(1)[0]
    batch = model.normalize(torch.from_numpy(image).permute(2, 0, 1)[None] / 255)
    tokens, weights = model.encode(batch)[0][:, 1:], model.responses(batch)
    expected = (weights / weights.sum())[0] @ tokens[0]
    for layers in ((-1,), (1, 0)):
        pooled = extractor(pooling="attention", normalize=False, layers=layers)(image)[0, :32]
        torch.testing.assert_close(pooled, expected, atol=1e-5, rtol=1e-4)


def test_whitening_is_applied_and_told_apart(extractor, tmp_path: Path):
    plain, images = extractor(), pictures(40)
    fitted = Whitening.fit(plain(images), 6, fingerprint=plain.fingerprint)
    fitted.save(tmp_path / "w.safetensors")
    white = extractor(whitening=Whitening.load(tmp_path / "w.safetensors"))
    features = white(images)
    assert features.shape == (40, 6)
    assert white.dim == 6
    assert white.fingerprint != plain.fingerprint
    raw = fitted(plain(images))
    torch.testing.assert_close(raw.T.cov(), torch.eye(6), atol=1e-3, rtol=0)
    torch.testing.assert_close(features, torch.nn.functional.normalize(raw), atol=1e-5, rtol=0)
    with pytest.raises(ModelError, match="another model"):
        extractor(whitening=fitted, pooling="cls")
    with pytest.raises(ModelError, match="another model"):
        extractor(whitening=fitted, seed=1)


def test_the_fingerprint_knows_what_changes_a_feature(extractor):
    first = extractor().fingerprint
    assert extractor(batch_size=3).fingerprint == first
    assert extractor(precision="bf16").fingerprint == first
    assert extractor(size=32).fingerprint == first  # the model's own
    others = [
        extractor(seed=1), extractor(pooling="cls"), extractor(layers=0), extractor(scales=(1, 2)), extractor(size=40),
        extractor(normalize=False),
    ]  # fmt: skip
    assert len({first, *(other.fingerprint for other in others)}) == 7


def test_halves_in_a_file_have_the_fingerprint_of_their_values(tiny_model, tmp_path: Path):
    model = tiny_model().half().float()
    save_autoencoder(model, tmp_path / "half", dtype=torch.float16)
    save_autoencoder(model, tmp_path / "full", dtype=torch.float32)
    half, full = (FeatureExtractor.from_pretrained(tmp_path / name, device="cpu") for name in ("half", "full"))
    assert half.fingerprint == full.fingerprint


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "hf-hub:org/name"])
def test_a_model_of_timm_fails_at_once_where_there_is_no_network(name, monkeypatch):
    pytest.importorskip("timm")
    calls = []

    def refuse(*_, **settings):
        calls.append(settings)
        raise ConnectionError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(ModelError, match=f"timm:{name}: .*cannot be reached.*no network") as caught:
        FeatureExtractor.from_pretrained(f"timm:{name}", cache_dir="mine", local_files_only=True)
    assert "\n" not in str(caught.value)
    assert len(calls) == 1
    assert (calls[0]["cache_dir"], calls[0]["local_files_only"]) == ("mine", True)


def test_a_model_of_timm_has_no_revision():
    with pytest.raises(ModelError, match="no revision 'v1'"):
        FeatureExtractor.from_pretrained("timm:vit_tiny_patch16_224", revision="v1")


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_a_model_of_timm_has_the_weights_of_the_hub(form, tmp_path, monkeypatch):
    timm = pytest.importorskip("timm")
    made = timm.create_model("vit_tiny_patch16_224", pretrained=False)
    weights, asked = made.state_dict(), []
    if form == "bin":
        torch.save(weights, tmp_path / "pytorch_model.bin")
    else:
        save_file(weights, tmp_path / "model.safetensors")
    facts = {"architecture": "vit_tiny_patch16_224", "num_classes": 1000, "pretrained_cfg": made.pretrained_cfg}
    (tmp_path / "config.json").write_text(json.dumps(facts, default=list))

    def download(repository, allow_patterns, **_):
        asked.append((repository, *allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    for name, repository in (
        ("vit_tiny_patch16_224", "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"),
        ("hf-hub:org/name", "org/name"),
    ):
        asked.clear()
        found = timm_backbone(name).network.state_dict()
        assert {key for key in weights if not key.startswith("head.")} == set(found)
        assert all(torch.equal(value, weights[key]) for key, value in found.items())
        files = ["model.safetensors", "pytorch_model.bin"][: 1 + (form == "bin")]
        assert asked == [(repository, "config.json", file) for file in files]


def test_features_equal_those_of_timm(tiny_model):
    vit = pytest.importorskip("timm.models.vision_transformer")
    ours = tiny_model()
    theirs = vit.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=0, global_pool="",
        norm_layer=torch.nn.LayerNorm, dynamic_img_size=True,
    ).eval()  # fmt: skip
    for module in theirs.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-6
    weights = {k: v for k, v in ours.state_dict().items() if "decoder" not in k and k != "mask_token"}
    theirs.load_state_dict(weights)
    theirs.pretrained_cfg = {"mean": ours.config.mean, "std": ours.config.std}
    images = [
        image for image in pictures(8) if image.shape[0] == image.shape[1]
    ]  # at other grids timm filters positions
    for pooling in ("cls", "mean", "cls+mean"):
        options = FeatureOptions(pooling=pooling, layers=(0, -1), normalize=False, precision="fp32")
        mine = FeatureExtractor(AutoencoderBackbone(ours), options, device="cpu")(images)
        same = FeatureExtractor(TimmBackbone(theirs), options, device="cpu")(images)
        torch.testing.assert_close(mine, same, atol=1e-5, rtol=1e-5)
    batch = torch.stack([torch.from_numpy(image).permute(2, 0, 1) for image in images if image.shape[0] == 32]) / 255
    raw = theirs.forward_features(ours.normalize(batch))
    whole = [image for image in images if image.shape[0] == 32]
    options = FeatureOptions(pooling="cls", normalize=False, precision="fp32")
    mine = FeatureExtractor(AutoencoderBackbone(ours), options, device="cpu")(whole)
    torch.testing.assert_close(mine, raw[:, 0], atol=1e-5, rtol=1e-5)
    with pytest.raises(ModelError, match="attention"):
        FeatureExtractor(TimmBackbone(theirs), FeatureOptions(pooling="attention"), device="cpu")(images)


def test_features_equal_those_of_transformers(tmp_path: Path):
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTMAEConfig(
        image_size=32, patch_size=8, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128,
        decoder_hidden_size=16, decoder_num_hidden_layers=1, decoder_num_attention_heads=2,
        decoder_intermediate_size=64, layer_norm_eps=1e-6, mask_ratio=0.0,
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = transformers.ViTMAEForPreTraining(config).eval()
    theirs.save_pretrained(tmp_path)
    image = pictures(1)[0]
    extractor = FeatureExtractor.from_pretrained(
        tmp_path, pooling="cls+mean", normalize=False, device="cpu", precision="fp32"
    )
    batch = extractor.backbone.normalize(torch.from_numpy(image).permute(2, 0, 1)[None] / 255)
    noise = torch.arange(16.0)[None]  # theirs shuffles even where it hides nothing
    with torch.no_grad():
        tokens = theirs.vit(batch, noise=noise).last_hidden_state
    expected = torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], dim=1)
    torch.testing.assert_close(extractor(image), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"pooling": "mode"}, "pooling must be one of"),
        ({"layers": ()}, "layers must be whole numbers"),
        ({"layers": (0.5,)}, "layers must be whole numbers"),
        ({"layers": (1, 1)}, "layers names one twice"),
        ({"layers": (2,)}, "layers must lie in -2 to 1"),
        ({"scales": (0.0,)}, "scales must be"),
        ({"scales": (float("nan"),)}, "scales must be"),
        ({"size": 0}, "size must be"),
        ({"size": True}, "size must be"),
        ({"precision": "fp8"}, "precision must be one of"),
        ({"pooling": "patch", "scales": (1, 2)}, "takes one scale"),
        ({"normalize": 1}, "normalize must be"),
        ({"batch_size": 0}, "batch_size must be"),
    ],
)
def test_what_does_not_fit_is_named(extractor, fields, says):
    with pytest.raises(ValueError, match=says):
        extractor(**fields)


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (np.zeros((4, 4, 2), np.uint8), "an array image is"),
        (np.zeros((0, 4, 3), np.uint8), "with some pixels"),
        (np.zeros((0, 5, 4), np.uint8), "some pixels"),
        (Image.new("RGB", (0, 5)), "some pixels"),
        (np.zeros((4, 4, 3), np.longdouble), "got dtype"),
        (np.zeros((4, 4, 3), object), "got dtype object"),
        (np.full((4, 4, 3), np.nan, np.float32), "lies in"),
        (np.full((4, 4, 3), 7.0), "before it is normalised"),
        (np.zeros((4, 4, 3), np.int32), "got dtype int32"),
        (3, "must be an image"),
        ("nonesuch.png", "does not exist"),
        (b"no image", "is not an image"),
    ],
)
def test_what_is_no_image_is_refused(extractor, image, says):
    with pytest.raises(MaerestoreError, match=says):
        extractor()(image)


def test_arrays_of_another_byte_order_are_taken(extractor):
    array = np.linspace(0, 1, 48, dtype=np.float32).reshape(4, 4, 3)
    assert torch.equal(extractor()(array.astype(">f4")), extractor()(array))


def test_an_unknown_option_is_refused_before_a_model_is_loaded():
    with pytest.raises(ValueError, match="unknown feature option"):
        FeatureExtractor.from_pretrained("nonesuch", pool="cls")
