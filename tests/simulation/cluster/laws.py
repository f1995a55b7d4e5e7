"""A law and its breach."""


class LawBroken(AssertionError):  # noqa: N818 - it names what happened
    """A law does not hold; the text begins with its name."""


def law(holds: bool, text: str) -> None:
    """Require that a law holds; `text` must be cheap to make, or be made only where it does not."""
    if not holds:
        raise LawBroken(text)
