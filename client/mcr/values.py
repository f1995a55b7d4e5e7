"""`dataclass` as in the standard library, cheaper to define.

The standard one compiles up to six methods for each class when its module is loaded, used or not: for four
hundred classes a third of the time in which a command starts. Here nothing is compiled but `__init__`, when
the first instance is made; the rest are closures. What others can ask is the same: `fields`, `replace`,
`asdict`, comparison, hash, repr, `match`, copying, pickling, `FrozenInstanceError`. Only
`__dataclass_params__` does not say that they are frozen or compared, so a class below one is made here, too.
"""

import dataclasses
from collections.abc import Callable
from operator import attrgetter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:

    def dataclass(cls=None, /, **options):  # noqa: ANN001, ANN003, ANN201 (checkers see the standard one)
        """See `dataclasses.dataclass`."""

        def make(of: type) -> type:
            # Not `is_dataclass`: it says so of a class that only inherits from one, too.
            below = [base for base in of.__mro__[1:] if "__dataclass_fields__" in base.__dict__]
            # A frozen one without slots is the one kind that is left to the standard library: none is used.
            ours = options.keys() <= _KNOWN and options.get("slots", False) >= options.get("frozen", False)
            if not ours or any(base not in _MADE for base in below):
                return dataclasses.dataclass(of, **options)
            return _make(of, **options)

        return make if cls is None else make(cls)


_KNOWN = {"frozen", "slots", "kw_only", "eq"}
_MISSING: Any = dataclasses.MISSING
# Those made here, which live as long as their modules.
_MADE: set[type] = set()


def _make(
    cls: type, *, frozen: bool = False, slots: bool = False, kw_only: bool = False, eq: bool = True
) -> type:
    own = cls.__dict__
    if cls.__doc__ is None:
        # Or the standard one writes a signature into it, which takes longer than all the rest.
        cls.__doc__ = f"{cls.__name__}: a value."
    # Not said to be frozen, or two more methods were compiled, and the same for each class below it.
    made: Any = dataclasses.dataclass(init=False, repr=False, eq=False, slots=slots, kw_only=kw_only)(cls)
    methods: dict[str, Any] = {"__init__": _first_init(made, frozen=frozen), "__repr__": _repr}
    if eq:
        compared = _getter(tuple(each.name for each in dataclasses.fields(made) if each.compare))
        methods["__eq__"] = _equal(compared)
        # What can change must not be a key.
        methods["__hash__"] = (lambda self: hash(compared(self))) if frozen else None
    for name, method in methods.items():
        # Who writes `__eq__` and no `__hash__` gets None for it from the language.
        written = name in own and not (name == "__hash__" and own[name] is None)
        if not written:
            if method is not None:
                method.__qualname__ = f"{made.__qualname__}.{name}"
            setattr(made, name, method)
    if frozen:
        made.__setattr__, made.__delattr__ = _refuse_set, _refuse_delete
        made.__getstate__, made.__setstate__ = _getstate, _setstate
    finished: type = made
    _MADE.add(finished)
    return finished


def _getter(names: tuple[str, ...]) -> Callable[[Any], tuple[Any, ...]]:
    if not names:
        return lambda _: ()
    if len(names) == 1:
        get = attrgetter(names[0])
        return lambda value: (get(value),)
    return attrgetter(*names)


def _equal(compared: Callable[[Any], tuple[Any, ...]]) -> Callable[[Any, Any], Any]:
    def equal(self: Any, other: Any) -> Any:  # noqa: ANN401
        if other.__class__ is not self.__class__:
            return NotImplemented
        return compared(self) == compared(other)

    return equal


def _repr(self: Any) -> str:  # noqa: ANN401
    shown = (f"{each.name}={getattr(self, each.name)!r}" for each in dataclasses.fields(self) if each.repr)
    return f"{self.__class__.__qualname__}({', '.join(shown)})"


def _refuse_set(self: object, name: str, value: object) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_delete(self: object, name: str) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")


def _getstate(self: Any) -> list[Any]:  # noqa: ANN401
    return [getattr(self, each.name) for each in dataclasses.fields(self)]


def _setstate(self: Any, state: list[Any]) -> None:  # noqa: ANN401
    for each, value in zip(dataclasses.fields(self), state, strict=True):
        object.__setattr__(self, each.name, value)


def _first_init(cls: Any, *, frozen: bool) -> Callable[..., None]:  # noqa: ANN401
    def init(self: Any, *arguments: Any, **named: Any) -> None:  # noqa: ANN401
        # Two threads may come here at once: both make the same.
        cls.__init__ = _init(cls, frozen=frozen)
        cls.__init__(self, *arguments, **named)

    return init


def _init(cls: Any, *, frozen: bool) -> Any:  # noqa: ANN401 (a function of the class's own signature)
    """Compile `__init__`: parameters as the fields stand, each stored, then `__post_init__`."""
    scope: dict[str, Any] = {"_MISSING": _MISSING}
    positional: list[str] = []
    named: list[str] = []
    body: list[str] = []
    for each in dataclasses.fields(cls):
        name = each.name
        text, value = name, name
        if each.default_factory is not _MISSING:
            scope[f"_make_{name}"] = each.default_factory
            text, value = f"{name}=_MISSING", f"_make_{name}() if {name} is _MISSING else {name}"
        elif each.default is not _MISSING:
            scope[f"_default_{name}"] = each.default
            text = f"{name}=_default_{name}"
        if each.init:
            (named if each.kw_only else positional).append(text)
        elif text == name:
            # No parameter and no default: `__post_init__` gives it a value.
            continue
        else:
            value = f"_default_{name}" if each.default is not _MISSING else f"_make_{name}()"
        if frozen:
            # By its slot, for the class itself refuses.
            scope[f"_set_{name}"] = getattr(cls, name).__set__
            body.append(f" _set_{name}(self, {value})\n")
        else:
            body.append(f" self.{name} = {value}\n")
    if hasattr(cls, "__post_init__"):
        body.append(" self.__post_init__()\n")
    parameters = ", ".join(("self", *positional, *(("*", *named) if named else ())))
    exec(f"def __init__({parameters}):\n{''.join(body) or ' pass'}", scope)  # noqa: S102 (field names only)
    init = scope["__init__"]
    init.__qualname__ = f"{cls.__qualname__}.__init__"
    init.__annotations__ = {each.name: each.type for each in dataclasses.fields(cls)} | {"return": None}
    return init
