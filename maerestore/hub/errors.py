"""What goes wrong when a model is asked for."""


class ModelError(ValueError):
    """A model that is not there, or whose files do not fit; the message is one line that says what to do."""
