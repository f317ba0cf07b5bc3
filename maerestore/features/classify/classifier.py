"""A fitted classifier, which assigns classes to images."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maerestore.features.backbone import AutoencoderBackbone
from maerestore.features.classify.folders import recover
from maerestore.features.classify.head import StoredHead, load_head, save_head
from maerestore.features.classify.head_config import HeadConfig
from maerestore.features.classify.knn import KNNHead
from maerestore.features.classify.linear import LinearHead
from maerestore.features.classify.whitened import load_whitening
from maerestore.features.extractor import FeatureExtractor
from maerestore.features.model_names import name_to_keep
from maerestore.features.options import FeatureOptions
from maerestore.features.whiten import Whitening
from maerestore.hub.errors import ModelError
from maerestore.hub.fetch import BUNDLED, check_no_revision, may_be_repository, resolve_model
from maerestore.image import InputError
from maerestore.model import MaskedAutoencoder


@dataclass(frozen=True)
class Prediction:
    """The classes of an image.

    Attributes:
        label: the most probable class.
        probability: of that class, in [0, 1].
        top: the most probable classes with their probabilities, the best first.

    Example:
        >>> Prediction("cat", 0.75, (("cat", 0.75), ("dog", 0.25))).label
        'cat'
    """

    label: str
    probability: float
    top: tuple[tuple[str, float], ...]


class Classifier:
    """A head on the features of a pretrained encoder.

    Fitted by `maerestore classify fit`, `fit_tables` or `fit_images`, and loaded by `from_pretrained`.

    Args:
        config: the facts about the head.
        head: what was fitted.
        encoder: the tuned one of the method "finetune".
        model: name or place of the model that makes the features, if it is not where the config says; it has to be the
            same model.
        device: where the model runs: "auto", "cpu", "cuda" or "mps".
        batch_size: images that go through the model together, at least 1.
        whitening: what is applied to the features, or the file that holds it; the one that the head was fitted with.
        **hub: revision, token, cache_dir and local_files_only of the model.

    Attributes:
        classes: names of the C classes.
        method: "knn", "linear", "logistic" or "finetune".

    Raises:
        ModelError: another whitening, or a model beside a tuned encoder.

    Example:
        >>> classifier = Classifier.from_pretrained("heads/animals")                    # doctest: +SKIP
        >>> classifier.predict(["a.jpg", "b.jpg"])[0].label                             # doctest: +SKIP
        'cat'
    """

    def __init__(
        self,
        config: HeadConfig,
        head: KNNHead | LinearHead,
        encoder: MaskedAutoencoder | None = None,
        *,
        model: str | Path | None = None,
        device: str = "auto",
        batch_size: int = 32,
        whitening: Whitening | str | Path | None = None,
        **hub: Any,
    ) -> None:
        self.config, self.head, self.encoder = config, head, encoder
        if encoder is not None and model is not None:
            raise ModelError("this classifier holds its own encoder: leave out the model")
        self._model = None if model is None else str(model)
        self._whitening = load_whitening(whitening, config.fingerprint)
        self._settings: dict[str, Any] = {"device": device, "batch_size": batch_size, "whitening": self._whitening}
        self._hub = hub
        self._extractor: FeatureExtractor | None = None

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        model: str | Path | None = None,
        device: str = "auto",
        batch_size: int = 32,
        whitening: Whitening | str | Path | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
    ) -> Classifier:
        """Load a classifier.

        Args:
            name_or_path: the folder that `save_pretrained` wrote, or "org/name[@revision]" on the Hub.
            model, device, batch_size: as for the class.
            whitening: as for the class; needed only where none is kept with the classifier.
            revision: branch, tag or commit of the classifier on the Hub, when not in its name.
            token, cache_dir, local_files_only: of the Hub, for the classifier and for its model.

        Returns:
            the classifier. The model that makes the features is loaded when it is first needed.

        Raises:
            ModelError: no such classifier, files that do not fit, or a revision of a folder.

        Example:
            >>> Classifier.from_pretrained("org/animals@v1").classes                    # doctest: +SKIP
            ('cat', 'dog')
        """
        hub: dict[str, Any] = {"token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
        folder, name = Path(name_or_path), str(name_or_path)
        recover(folder)
        if not os.path.exists(name):  # not of Path: "" would be the working directory
            if name not in BUNDLED and not may_be_repository(name):
                raise ModelError(
                    f"no such folder {name!r}: give one that `maerestore classify fit` wrote, "
                    "or org/name[@revision] of the Hub"
                )
            folder = resolve_model(name, revision=revision, **hub)
        else:
            check_no_revision(name, revision)
        stored = load_head(folder)
        return cls(
            stored.config,
            stored.head,
            stored.encoder,
            model=model,
            device=device,
            batch_size=batch_size,
            whitening=stored.whitening if whitening is None else whitening,
            **hub,
        )

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the C classes."""
        return self.config.classes

    @property
    def method(self) -> str:
        """How the head was fitted."""
        return self.config.method

    @property
    def extractor(self) -> FeatureExtractor:
        """The extractor that makes the features; loaded on first use.

        Raises:
            ModelError: the model is not there, or is not the one that the head was fitted with.
        """
        if self._extractor is None:
            options = FeatureOptions.from_dict(self.config.options)
            name = self._model or self.config.model
            if self.encoder is not None:
                backbone = AutoencoderBackbone(self.encoder)
                self._extractor = FeatureExtractor(backbone, options, name="the tuned encoder", **self._settings)
            else:
                self._extractor = FeatureExtractor.from_pretrained(name, options=options, **self._settings, **self._hub)
            try:
                self.check(self._extractor.fingerprint, f"the model {self._extractor.name!r}")
            except ModelError:
                self._extractor = None
                raise
        return self._extractor

    def check(self, fingerprint: str, what: str = "this model") -> None:
        """Refuse features of another extractor than the head was fitted with.

        Raises:
            ModelError: fingerprints that differ.
        """
        if fingerprint != self.config.fingerprint:
            raise ModelError(
                f"{what} is not what the classifier was fitted on, {self.config.model or 'its own encoder'!r}: the "
                f"weights or options differ ({fingerprint[:8]}, fitted on {self.config.fingerprint[:8]}): give that "
                "model with --model, the whitening of its features, if any, with --whiten, or fit again",
                in_python="model=, whitening=",
            )

    def probabilities(self, features: Any) -> Tensor:
        """The probability of each class.

        Args:
            features: (N, D) floats, an array or a tensor, that this classifier's `extractor` made.

        Returns:
            (N, C) float32 on the CPU; rows sum to 1.

        Raises:
            ModelError: features of another width.
        """
        rows = torch.as_tensor(features, dtype=torch.float32)
        if rows.ndim != 2 or rows.shape[1] != self.config.dim:
            raise ModelError(f"features must be (N, {self.config.dim}), got {tuple(rows.shape)}")
        return self.head.probabilities(rows)

    def predict(self, images: Any, top: int = 5) -> list[Prediction]:
        """Classify one image or many.

        Args:
            images: an image or a sequence of images: paths, bytes of files, PIL images, arrays or tensors; folders and
                tars stand for the images in them. See `FeatureExtractor`.
            top: how many classes to give for each image, at least 1; at most C are given.

        Returns:
            a prediction for each image, in their order.

        Raises:
            InputError: a file that is no readable image, or `top` below 1.
            ModelError: the model that makes the features is missing, or is another.

        Example:
            >>> classifier.predict("photo.jpg", top=2)[0].top                           # doctest: +SKIP
            (('cat', 0.93), ('dog', 0.05))
        """
        if isinstance(top, bool) or not isinstance(top, int) or top < 1:
            raise InputError(f"top must be a whole number of at least 1, got {top!r}")
        return self.ranked(self.probabilities(self.extractor(images)), top)

    def ranked(self, probabilities: Tensor, top: int = 5) -> list[Prediction]:
        """The most probable classes of each row of probabilities (N, C), at most `top` of them."""
        # Not topk, which breaks ties in any way: of classes with equal votes the first counts, as for argmax.
        values, numbers = probabilities.sort(dim=1, descending=True, stable=True)
        count = min(max(top, 1), len(self.classes))
        rows = [
            tuple((self.classes[c], p) for p, c in zip(*row, strict=True))
            for row in zip(values[:, :count].tolist(), numbers[:, :count].tolist(), strict=True)
        ]
        return [Prediction(row[0][0], row[0][1], row) for row in rows]

    def save_pretrained(self, folder: str | Path, overwrite: bool = False) -> None:
        """Write the classifier to a folder, whole or not at all.

        Args:
            folder: to write; the folder around it has to be there.
            overwrite: replace a classifier that is there. Its card (README.md) and pictures stay.

        Raises:
            ModelError: the folder is there and `overwrite` is not set, it holds files that are no part of a classifier,
                or it cannot be written.

        Example:
            >>> classifier.save_pretrained("heads/animals", overwrite=True)             # doctest: +SKIP
        """
        stored = StoredHead(self.public_config(), self.head, self.encoder, self._whitening)
        save_head(Path(folder), stored, overwrite)

    def push_to_hub(self, repo_id: str, **settings: Any) -> str:
        """Send the classifier to the Hugging Face Hub, with a model card.

        Args:
            repo_id: "org/name"; the repository is made if it is not there.
            **settings: of `maerestore.hub.push.push_folder` (private, create_pr, revision, token, license, ...).

        Returns:
            the address of the commit, or of the pull request.

        Raises:
            ModelError: features that others cannot make (of a model that only this machine has, or of another release's
                bundled model), no permission, or a Hub that fails.

        Example:
            >>> classifier.push_to_hub("org/animals", private=True)                     # doctest: +SKIP
            'https://huggingface.co/org/animals/commit/...'
        """
        from maerestore.hub.push import push_folder

        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(Path(folder) / "classifier")
            settings = {"commit_message": "Upload classifier with maerestore", **settings}
            return push_folder(Path(folder) / "classifier", repo_id, **settings)

    def public_config(self) -> HeadConfig:
        """The config to save: it names the model that was given, if one was, and says whether there is a whitening."""
        config = replace(self.config, whitened=self._whitening is not None)
        return config if self._model is None else replace(config, model=name_to_keep(self.extractor.name))
