"""The lines left of a log: which version came from which. Pure text.

Each open line of descent has a column; columns are never shifted, only left empty and used again, so that a
reader can follow one line with the finger.
"""

from collections.abc import Sequence


class Graph:
    """Draws one version after another, newest first.

    Versions must come in an order in which children stand before their parents, as their numbers do.
    """

    def __init__(self) -> None:
        # The version each column leads down to; None for a free column.
        self._columns: list[int | None] = []

    def rows(self, number: int, parents: Sequence[int]) -> tuple[list[str], str, list[str]]:
        """Return the drawing of one version: rows above it, its own row, rows below it."""
        here = [column for column, leads_to in enumerate(self._columns) if leads_to == number]
        at = here[0] if here else self._take(number)
        above = []
        for column in here[1:]:
            # Two lines meet in their common parent.
            self._columns[column] = None
            above.append(self._row(joint=(at, column, "/")))
        star = self._row(star=at)

        self._columns[at] = parents[0] if parents else None
        below = []
        for parent in parents[1:]:
            column = self._columns.index(parent) if parent in self._columns else self._take(parent)
            if column != at:
                below.append(self._row(joint=(min(at, column), max(at, column), "\\/"[column < at])))
        while self._columns and self._columns[-1] is None:
            self._columns.pop()
        return above, star, below

    def _take(self, number: int) -> int:
        if None in self._columns:
            column = self._columns.index(None)
            self._columns[column] = number
            return column
        self._columns.append(number)
        return len(self._columns) - 1

    def _row(self, *, star: int = -1, joint: tuple[int, int, str] | None = None) -> str:
        width = max(len(self._columns), (joint[1] + 1) if joint else 0)
        cells = [" "] * (2 * width)
        for column, leads_to in enumerate(self._columns):
            if leads_to is not None:
                cells[2 * column] = "|"
        if star >= 0:
            cells[2 * star] = "*"
        if joint is not None:
            left, right, sign = joint
            cells[2 * right - 1] = sign
            for position in range(2 * left + 1, 2 * right - 1):
                if cells[position] == " ":
                    cells[position] = "_"
            if sign == "\\":
                cells[2 * right] = " "
        return "".join(cells).rstrip()
