"""The exception for a mistake of the caller."""


class UserError(ValueError):
    """A mistake in what the user gave: a file, a name, a number.

    The message is one line that names the thing and the way out. A parameter of the Python API stands in it in
    backticks, such as `out`; the command line shows the option instead.
    """
