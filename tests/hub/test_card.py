import yaml

from maerestore.hub.card import model_card, pictures_of
from maerestore.model import MAEConfig


def parts(card):
    """Front matter as a mapping, and the text below it."""
    empty, matter, text = card.split("---\n", 2)
    assert empty == ""
    return yaml.safe_load(matter), text


def test_the_front_matter_says_what_the_hub_files_a_model_under():
    matter, _ = parts(model_card(MAEConfig()))
    assert matter == {
        "library_name": "maerestore",
        "pipeline_tag": "image-to-image",
        "tags": ["masked-autoencoder", "inpainting", "image-restoration"],
    }


def test_a_licence_is_stated_only_where_it_is_given():
    assert parts(model_card(MAEConfig(), license="cc-by-4.0"))[0]["license"] == "cc-by-4.0"
    assert "license" not in parts(model_card(MAEConfig()))[0]


def test_sizes_and_preprocessing_are_those_of_the_config(tiny_settings):
    config = MAEConfig(**tiny_settings | {"in_chans": 1, "mean": (0.25,), "std": (0.125,), "norm_pix_loss": True})
    text = parts(model_card(config))[1]
    for fact in (
        "width 32, 2 blocks, 2 heads",
        "width 16, 1 blocks",
        "| patch | 8 px |",
        "32 x 32 px",
        "normalised by",
    ):
        assert fact in text
    for fact in ("Gray images", "(0.25)", "(0.125)", "multiples of 8"):
        assert fact in text


def test_the_parameters_of_vit_b_are_those_of_the_paper():
    assert "111.7 M parameters" in model_card(MAEConfig())  # 111,655,680 without the fixed position tables


def test_the_examples_load_the_repository():
    text = parts(model_card(MAEConfig(), repo_id="org/name"))[1]
    assert text.lstrip().startswith("# name\n")
    assert 'Inpainter.from_pretrained("org/name")' in text
    assert "--model org/name" in text


def test_an_encoder_alone_promises_no_reconstruction():
    matter, text = parts(model_card(MAEConfig(decoder_depth=0), repo_id="org/name"))
    assert matter["pipeline_tag"] == "image-feature-extraction"
    assert "inpainting" not in matter["tags"]
    assert "encoder only" in text
    assert "cannot reconstruct" in text
    assert "Inpainter" not in text
    assert 'MaskedAutoencoder.from_pretrained("org/name")' in text


def test_facts_of_the_training_are_listed_one_a_row():
    training = {"samples": 370048, "recipe": {"lr": 1.5e-3, "names": ["a", "b"]}, "note": "two\nlines | of text"}
    text = parts(model_card(MAEConfig(), training))[1]
    assert "| samples | 370,048 |" in text
    assert "| recipe.lr | 0.0015 |" in text
    assert "| note | two lines \\| of text |" in text
    assert "Not stated." not in text
    assert "Not stated." in model_card(MAEConfig())


def test_a_picture_counts_once_however_it_is_named_and_names_of_none_do_no_harm(tmp_path):
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    names = ["a.png", "./a.png", ".//a.png", "a" * 300 + ".png", "loop.png", "nul\0.png"]
    (tmp_path / "README.md").write_text(" ".join(f"![x]({name})" for name in names))
    assert pictures_of(tmp_path / "README.md") == ["a.png"]
