"""What goes wrong when a model is asked for."""

from maerestore.errors import MaerestoreError


class ModelError(MaerestoreError):
    """A model that is not there, or whose files do not fit; the message is one line that says what to do."""
