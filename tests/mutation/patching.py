"""Seeded defects as small changes of the text of one function, made in memory for a while.

The function keeps its identity, only its code is another: so it does not matter who imported it by which
name. A change whose text is not there exactly once is an error: the product moved on, and the defect follows.
"""

import inspect
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from types import FunctionType


@dataclass(frozen=True, slots=True)
class TextDefect:
    """A defect by text.

    Attributes:
        name: what is wrong then, as words joined by underscores.
        where: module below `root` and function in it, such as `raft.log:RaftLog.append`.
        old, new: a piece of its text, and what stands there instead.
        like: the bug of others that it repeats, if any.
        root: package that `where` is in.
    """

    name: str
    where: str
    old: str
    new: str
    like: str = ""
    root: str = "mcr_node.core"

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Let it be there."""
        function = self.function()
        good = function.__code__
        function.__code__ = self._wrong(function).__code__
        try:
            yield
        finally:
            function.__code__ = good

    def function(self) -> FunctionType:
        """Return the function that it changes."""
        module_name, _, path = self.where.partition(":")
        found: object = import_module(f"{self.root}.{module_name}")
        for name in path.split("."):
            found = inspect.getattr_static(found, name)
        if isinstance(found, property):
            found = found.fget
        assert isinstance(found, FunctionType), f"{self.where} is no function"
        return found

    def _wrong(self, function: FunctionType) -> FunctionType:
        text = textwrap.dedent(inspect.getsource(function))
        assert text.count(self.old) == 1, f"{self.name}: {text.count(self.old)} times in {self.where}"
        made: dict[str, object] = dict(function.__globals__)
        exec(compile(text.replace(self.old, self.new), self.where, "exec"), made)
        wrong = made[function.__name__]
        if isinstance(wrong, property):
            wrong = wrong.fget
        assert isinstance(wrong, FunctionType)
        return wrong
