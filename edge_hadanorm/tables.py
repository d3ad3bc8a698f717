"""Tables as text."""

from collections.abc import Iterable

Row = tuple[object, ...]


def table(header: Row, rows: Iterable[Row]) -> str:
    """Format rows as columns as wide as their widest cell, numbers to the right."""
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    numeric = [all(is_number(row[i]) for row in cells[1:]) for i in range(len(widths))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ).rstrip()
        for row in cells
    )


def is_number(cell: str) -> bool:
    """Whether a cell of a table is a number, which stands to the right."""
    return cell.replace(".", "", 1).replace("-", "", 1).replace("+", "", 1).isdigit() or cell in ("-", "inf")
