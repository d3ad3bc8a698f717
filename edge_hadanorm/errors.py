"""The one exception that means: the caller made a mistake, and the message says which and what to do about it."""


class UserError(ValueError):
    """A mistake in what the user gave (a file, a name, a number); the message is one line with the way out."""
