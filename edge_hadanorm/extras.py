"""Messages where a package of an extra is missing: extras are what pip installs besides, see pyproject.toml."""

from collections.abc import Iterator
from contextlib import contextmanager

from edge_hadanorm.errors import UserError


@contextmanager
def needed(extra: str, purpose: str) -> Iterator[None]:
    """Raise UserError where an import inside misses a package of others, which the extra brings.

    >>> with needed("report", "a report"):
    ...     import jinja2
    """
    try:
        yield
    except ModuleNotFoundError as missing:
        package = (missing.name or "").split(".")[0]
        if package in ("", "edge_hadanorm"):
            raise
        raise UserError(
            f"{purpose} needs {package}, which is not here: pip install 'edge-hadanorm[{extra}]'"
        ) from missing
