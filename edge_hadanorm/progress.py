"""Progress of long work: callables that a caller gives and the library tells; nothing is shown without one."""

from collections.abc import Callable, Iterable

# Wraps what is gone through: a bar, for example.
Wrap = Callable[[Iterable], Iterable]
# (what is being done) -> a wrapper
Progress = Callable[[str], Wrap]
# Takes a line that says what a long command is at.
Status = Callable[[str], object]


def silent(what: str) -> Wrap:
    """The `Progress` that shows nothing."""
    return iter


def quiet(line: str) -> None:
    """The `Status` that shows nothing."""
