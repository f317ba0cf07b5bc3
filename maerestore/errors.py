"""The root of every error that a user can mend."""


class MaerestoreError(ValueError):
    """Bad input: the message is one line that says what is wrong and what to do. The command line exits with 2."""
