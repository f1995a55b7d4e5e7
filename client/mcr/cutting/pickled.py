"""The shape of a pickle, read opcode by opcode: nothing is imported, called or built.

A pickle is a program. Running it runs whatever its author wanted, so it is never run: every global stays a
name, every call a `Made` with its arguments beside it. That is enough to see which tensor a checkpoint calls
what. Only the binary opcodes that PyTorch writes are known (protocols 2 to 5).
"""

from collections.abc import Callable
from dataclasses import field
from struct import Struct

from mcr.cutting.spans import MalformedError
from mcr.model import MIB
from mcr.values import dataclass

# The description of a model with 100,000 tensors is about 20 MiB and 4 million opcodes; that is also what a
# hostile file can cost: a few seconds.
PICKLE_BYTES_MAX = 32 * MIB
OPCODES_MAX = 5_000_000
GLOBAL_CHARACTERS_MAX = 4096

# What a pickle describes: plain values, lists, tuples and the classes below.
Value = object


@dataclass(frozen=True, slots=True)
class Global:
    """A class or function, by name only."""

    name: str


@dataclass(frozen=True, slots=True)
class Persistent:
    """Something kept outside of the pickle: for PyTorch, a storage."""

    identifier: Value


@dataclass(slots=True, eq=False)
class Table:
    """A mapping as pairs in the order written: keys are never hashed or compared."""

    pairs: list[tuple[Value, Value]] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Made:
    """What a call would have made: an object, or whatever the function returns.

    Attributes:
        function: the class or function, mostly a `Global`.
        arguments: mostly a tuple.
        state: what the object is given afterwards, mostly a `Table` of attributes; None without.
        items: entries set afterwards, when it acts as a mapping.
        elements: entries appended afterwards, when it acts as a list.
    """

    function: Value
    arguments: Value
    state: Value = None
    items: Table = field(default_factory=Table)
    elements: list[Value] = field(default_factory=list)


class _Mark:
    """Where a run of arguments starts on the stack."""


_MARK = _Mark()


def read(data: bytes) -> Value:
    """Return what a pickle describes.

    Raises:
        MalformedError: cut short, longer than the limits, or with an opcode that is not known.
    """
    if len(data) > PICKLE_BYTES_MAX:
        raise MalformedError(f"a pickle of {len(data)} bytes")
    try:
        return _Machine(data).run()
    except IndexError as error:
        raise MalformedError("the pickle takes more from the stack than it put there") from error


class _Machine:
    """A stack and a memo; each opcode is one small method or an entry in a table."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self._stack: list[Value] = []
        self._memo: dict[int, Value] = {}

    def run(self) -> Value:
        for _ in range(OPCODES_MAX):
            opcode = self._take(1)[0]
            if opcode == _STOP:
                return self._stack.pop()
            act = _ACTIONS.get(opcode)
            if act is None:
                raise MalformedError(f"pickle opcode {opcode:#x}")
            act(self)
        raise MalformedError(f"a pickle of more than {OPCODES_MAX} opcodes")

    def _take(self, length_bytes: int) -> bytes:
        end = self._at + length_bytes
        if length_bytes < 0 or end > len(self._data):
            raise MalformedError("the pickle ends too early")
        taken = self._data[self._at : end]
        self._at = end
        return taken

    def integer(self, width_bytes: int, *, signed: bool = False) -> int:
        return int.from_bytes(self._take(width_bytes), "little", signed=signed)

    def skip(self, length_bytes: int) -> None:
        self._take(length_bytes)

    def push(self, value: Value) -> None:
        self._stack.append(value)

    def push_float(self) -> None:
        self.push(_FLOAT.unpack(self._take(_FLOAT.size))[0])

    def push_text(self, width_bytes: int) -> None:
        self.push(self._take(self.integer(width_bytes)).decode("utf-8", "replace"))

    def push_bytes(self, width_bytes: int) -> None:
        self.push(self._take(self.integer(width_bytes)))

    def push_long(self, width_bytes: int) -> None:
        self.push(self.integer(self.integer(width_bytes), signed=True))

    def push_global(self) -> None:
        self.push(Global(f"{self._line()}.{self._line()}"))

    def _line(self) -> str:
        end = self._data.find(b"\n", self._at)
        if end < 0:
            raise MalformedError("the pickle ends too early")
        line = self._take(end - self._at).decode("utf-8", "replace")
        self.skip(1)
        return line

    def push_stack_global(self) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        # Both may come from the memo a million times over, so they are joined only when they are short.
        if (
            not isinstance(name, str)
            or not isinstance(module, str)
            or len(name) + len(module) > GLOBAL_CHARACTERS_MAX
        ):
            raise MalformedError("the pickle names a global by what is no name")
        self.push(Global(f"{module}.{name}"))

    def pop(self) -> None:
        self._stack.pop()

    def since_mark(self) -> list[Value]:
        values: list[Value] = []
        while (value := self._stack.pop()) is not _MARK:
            values.append(value)
        values.reverse()
        return values

    def push_tuple(self, length: int) -> None:
        values = [self._stack.pop() for _ in range(length)]
        self.push(tuple(reversed(values)))

    def push_marked_tuple(self) -> None:
        self.push(tuple(self.since_mark()))

    def push_marked_list(self) -> None:
        self.push(self.since_mark())

    def push_marked_table(self) -> None:
        self.push(Table(_pairs(self.since_mark())))

    def put(self, width_bytes: int) -> None:
        self._memo[self.integer(width_bytes)] = self._stack[-1]

    def memoize(self) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def get(self, width_bytes: int) -> None:
        index = self.integer(width_bytes)
        if index not in self._memo:
            raise MalformedError(f"the pickle has nothing under number {index}")
        self.push(self._memo[index])

    def duplicate(self) -> None:
        self.push(self._stack[-1])

    def append(self) -> None:
        value = self._stack.pop()
        self._extend([value])

    def append_marked(self) -> None:
        self._extend(self.since_mark())

    def _extend(self, values: list[Value]) -> None:
        target = self._stack[-1]
        if isinstance(target, list):
            target += values
        elif isinstance(target, Made):
            target.elements += values
        else:
            raise MalformedError("the pickle appends to what is no list")

    def set_item(self) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._update([(key, value)])

    def set_marked_items(self) -> None:
        self._update(_pairs(self.since_mark()))

    def _update(self, pairs: list[tuple[Value, Value]]) -> None:
        target = self._stack[-1]
        if isinstance(target, Made):
            target = target.items
        if not isinstance(target, Table):
            raise MalformedError("the pickle sets an item of what is no mapping")
        target.pairs += pairs

    def call(self) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        self.push(Made(function, arguments))

    def call_with_keywords(self) -> None:
        self._stack.pop()
        self.call()

    def build(self) -> None:
        state, target = self._stack.pop(), self._stack[-1]
        if isinstance(target, Made):
            target.state = state

    def persist(self) -> None:
        self.push(Persistent(self._stack.pop()))


def _pairs(values: list[Value]) -> list[tuple[Value, Value]]:
    if len(values) % 2:
        raise MalformedError("the pickle has a key without a value")
    return list(zip(values[::2], values[1::2], strict=True))


_FLOAT = Struct(">d")
_STOP = ord(".")
# Opcodes by their byte, in the order of `pickletools`' documentation.
_ACTIONS: dict[int, Callable[[_Machine], None]] = {
    0x80: lambda machine: machine.skip(1),  # PROTO
    0x95: lambda machine: machine.skip(8),  # FRAME
    ord("J"): lambda machine: machine.push(machine.integer(4, signed=True)),
    ord("K"): lambda machine: machine.push(machine.integer(1)),
    ord("M"): lambda machine: machine.push(machine.integer(2)),
    0x8A: lambda machine: machine.push_long(1),
    0x8B: lambda machine: machine.push_long(4),
    ord("G"): _Machine.push_float,
    ord("N"): lambda machine: machine.push(None),
    0x88: lambda machine: machine.push(True),
    0x89: lambda machine: machine.push(False),
    ord("X"): lambda machine: machine.push_text(4),
    0x8C: lambda machine: machine.push_text(1),
    0x8D: lambda machine: machine.push_text(8),
    ord("T"): lambda machine: machine.push_bytes(4),
    ord("U"): lambda machine: machine.push_bytes(1),
    ord("B"): lambda machine: machine.push_bytes(4),
    ord("C"): lambda machine: machine.push_bytes(1),
    0x8E: lambda machine: machine.push_bytes(8),
    0x96: lambda machine: machine.push_bytes(8),
    ord("]"): lambda machine: machine.push([]),
    ord("l"): _Machine.push_marked_list,
    ord("a"): _Machine.append,
    ord("e"): _Machine.append_marked,
    ord(")"): lambda machine: machine.push(()),
    ord("t"): _Machine.push_marked_tuple,
    0x85: lambda machine: machine.push_tuple(1),
    0x86: lambda machine: machine.push_tuple(2),
    0x87: lambda machine: machine.push_tuple(3),
    ord("}"): lambda machine: machine.push(Table()),
    ord("d"): _Machine.push_marked_table,
    ord("s"): _Machine.set_item,
    ord("u"): _Machine.set_marked_items,
    # A set is read as a list: it may repeat, which matters to nobody here.
    0x8F: lambda machine: machine.push([]),
    0x90: _Machine.append_marked,
    0x91: _Machine.push_marked_list,
    ord("("): lambda machine: machine.push(_MARK),
    ord("0"): _Machine.pop,
    ord("1"): lambda machine: machine.since_mark().clear(),
    ord("2"): _Machine.duplicate,
    ord("h"): lambda machine: machine.get(1),
    ord("j"): lambda machine: machine.get(4),
    ord("q"): lambda machine: machine.put(1),
    ord("r"): lambda machine: machine.put(4),
    0x94: _Machine.memoize,
    ord("c"): _Machine.push_global,
    0x93: _Machine.push_stack_global,
    ord("R"): _Machine.call,
    ord("b"): _Machine.build,
    0x81: _Machine.call,
    0x92: _Machine.call_with_keywords,
    ord("Q"): _Machine.persist,
}
