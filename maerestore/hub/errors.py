"""The error of models that cannot be loaded, saved or sent."""

from maerestore.errors import MaerestoreError


class ModelError(MaerestoreError):
    """A model that is missing or whose files do not fit. The message is one line that says what to do."""


class NotFoundError(ModelError):
    """A repository that is not on the Hub, or cannot be reached and is not in the cache."""


class UnreachableError(NotFoundError):
    """The Hub does not answer, or there is no network."""
