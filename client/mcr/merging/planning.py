"""What a merged version consists of: each path, and within tensor files each tensor, three-way.

Equal on both sides, or changed on one: that is taken, unread. Changed on both: a conflict, which `Judge`
decides or leaves open. A file of tensors that both sides changed is taken apart if both have the same format;
what then stands around the tensors has to be one side's, but for safetensors, whose header is written anew
where it must.
"""

from collections.abc import Awaitable, Callable
from dataclasses import field, replace

from mcr.errors import InvalidArgumentError
from mcr.manifest import FileRow, compare, drain_async
from mcr.merging.choices import CONTAINER, Choice, Conflict, ConflictKind, Form, Given, Judge
from mcr.merging.layout import (
    SAFETENSORS,
    Get,
    TensorFile,
    container_print,
    form_of,
    load,
    read_metadata,
    safetensors_head,
)
from mcr.model import ChunkId, EntryKind, Tensor
from mcr.tensors.merging import Method, Strategy
from mcr.values import dataclass

FindGiven = Callable[[Given], Awaitable[FileRow]]
# Formats whose tensors can be put in place of others, byte for byte.
_FORMATS = (SAFETENSORS, "npy")
_ID_CHARACTERS = 12


@dataclass(frozen=True, slots=True)
class Taken:
    """The bytes of a tensor as a file has them."""

    row: FileRow
    tensor: Tensor


@dataclass(frozen=True, slots=True)
class Computed:
    """A tensor that is computed of two, or three; all of one type and shape."""

    strategy: Strategy
    ours: Taken
    theirs: Taken
    base: Taken | None


@dataclass(frozen=True, slots=True)
class Piece:
    """One tensor of a combined file."""

    name: str
    source: Taken | Computed

    @property
    def form(self) -> Form:
        """Type and shape."""
        return form_of(self.like)

    @property
    def like(self) -> Tensor:
        """A tensor of the same type, shape and length."""
        return self.source.tensor if isinstance(self.source, Taken) else self.source.ours.tensor


@dataclass(frozen=True, slots=True)
class Combined:
    """A file that is put together.

    Attributes:
        around: the file whose bytes stand around the tensors; each of its tensors is a piece.
        head: where there is none such: what stands before the pieces, which follow in their order.
    """

    path: str
    executable: bool
    format: str
    pieces: tuple[Piece, ...]
    around: TensorFile | None
    head: bytes = b""


FilePlan = FileRow | Combined | None
"""What stands at a path: a file as it is, one that is put together, or nothing."""


@dataclass(slots=True)
class Plan:
    """What differs from ours, by path. Complete when the judge left nothing open."""

    changes: dict[str, FilePlan] = field(default_factory=dict)


async def plan(
    get: Get,
    *,
    base: ChunkId | None,
    ours: ChunkId,
    theirs: ChunkId,
    judge: Judge,
    find_given: FindGiven,
) -> Plan:
    """Compare three manifests; nodes that two of them share are not read.

    Args:
        get: fetches chunks.
        base: manifest that both come from; None = there is none, so whatever both have and differs conflicts.
        ours: manifest merged into.
        theirs: manifest merged.
        judge: decides conflicts, and knows afterwards which are open.
        find_given: returns the row of a chosen file.

    Raises:
        InvalidArgumentError: a choice cannot be applied.
    """
    planner = _Planner(get, judge, find_given)
    made = Plan()
    if base is None:
        async for difference in drain_async(compare(ours, theirs), get):
            o, t = difference.before, difference.after
            if t is not None:
                made.changes[difference.path] = (
                    t if o is None else await planner.file(difference.path, None, o, t)
                )
        return made
    mine = {each.path: each async for each in drain_async(compare(base, ours), get)}
    async for difference in drain_async(compare(base, theirs), get):
        path, t = difference.path, difference.after
        here = mine.get(path)
        if here is None:
            made.changes[path] = t
        elif here.after != t:
            made.changes[path] = await planner.file(path, difference.before, here.after, t)
    return made


class _Planner:
    """Plans single files."""

    def __init__(self, get: Get, judge: Judge, find_given: FindGiven) -> None:
        self._get = get
        self._judge = judge
        self._find_given = find_given

    async def file(self, path: str, b: FileRow | None, o: FileRow | None, t: FileRow | None) -> FilePlan:
        """Plan a path that both sides changed in different ways."""
        if o is not None and t is not None:
            executable = _executable(b, o, t)
            whole = _three_way(_content(b), _content(o), _content(t))
            if whole is not None:
                return replace(whole, entry=replace(whole.entry, executable=executable))
            if _can_combine(o, t):
                combined = await self._combine(path, b, o, t, executable=executable)
                if combined is not None:
                    return combined
        return await self._conflict(path, b, o, t)

    async def _conflict(
        self, path: str, b: FileRow | None, o: FileRow | None, t: FileRow | None, reason: str = ""
    ) -> FilePlan:
        conflict = Conflict(ConflictKind.FILE, path, _shown(b), _shown(o), _shown(t), reason=reason)
        choice = self._judge.decide(conflict)
        match choice:
            case Given():
                row = await self._find_given(choice)
                return replace(row, entry=replace(row.entry, path=path))
            case Strategy(Method.THEIRS):
                return t
            case Strategy(Method.BASE):
                return b
            case _:
                return o

    async def _combine(
        self, path: str, b: FileRow | None, o: FileRow, t: FileRow, *, executable: bool
    ) -> FilePlan:
        """Plan a file tensor by tensor; None when what is around the tensors does not allow it."""
        ours, theirs = await load(self._get, o), await load(self._get, t)
        base = await load(self._get, b) if b is not None and b.entry.format == o.entry.format else None
        if o.entry.format == SAFETENSORS:
            around = await self._metadata(path, base, ours, theirs)
        else:
            container = await self._container(path, base, ours, theirs)
            if container is None:
                return None
            around = container, None
        pieces = await self._pieces(path, base, ours, theirs)
        forms = {piece.name: piece.form for piece in pieces}
        whole = _wholly_of(pieces, around[0])
        if whole is not None and forms == around[0].forms:
            return replace(whole.row, entry=replace(whole.row.entry, executable=executable))
        metadata = around[1]
        for side in (around[0], theirs if around[0] is ours else ours):
            fits = metadata is None or metadata == await read_metadata(self._get, side)
            if fits and forms == side.forms:
                return Combined(path, executable, o.entry.format, tuple(pieces), side)
            if metadata is None:
                return None
        assert metadata is not None, "only safetensors get a new header"
        head = safetensors_head(
            [(piece.name, piece.form, piece.like.length_bytes) for piece in pieces], metadata
        )
        return Combined(path, executable, SAFETENSORS, tuple(pieces), None, head)

    async def _metadata(
        self, path: str, base: TensorFile | None, ours: TensorFile, theirs: TensorFile
    ) -> tuple[TensorFile, dict[str, str] | None]:
        """Return the side whose metadata stands, and the metadata."""
        of_ours, of_theirs = await read_metadata(self._get, ours), await read_metadata(self._get, theirs)
        of_base = {} if base is None else await read_metadata(self._get, base)
        if of_ours in (of_theirs, of_base) and of_ours != of_theirs:
            return theirs, of_theirs
        if of_theirs in (of_ours, of_base):
            return ours, of_ours
        shown = [str(each)[:200] for each in (of_base, of_ours, of_theirs)]
        match self._judge.decide(_container_conflict(path, shown[0], shown[1], shown[2])):
            case Strategy(Method.THEIRS):
                return theirs, of_theirs
            case Strategy(Method.BASE):
                return ours, of_base
            case _:
                return ours, of_ours

    async def _container(
        self, path: str, base: TensorFile | None, ours: TensorFile, theirs: TensorFile
    ) -> TensorFile | None:
        """Return the side whose bytes stand around the tensors; None when the tensors would not fit in it."""
        prints = [
            None if each is None else await container_print(self._get, each) for each in (base, ours, theirs)
        ]
        if ours.forms != theirs.forms:
            return None
        if prints[1] == prints[2] or prints[2] == prints[0]:
            return ours
        if prints[1] == prints[0]:
            return theirs
        shown = [None if each is None else each.hex()[:_ID_CHARACTERS] for each in prints]
        match self._judge.decide(_container_conflict(path, shown[0], shown[1], shown[2])):
            case Strategy(Method.THEIRS):
                return theirs
            case _:
                return ours

    async def _pieces(
        self, path: str, base: TensorFile | None, ours: TensorFile, theirs: TensorFile
    ) -> list[Piece]:
        """Decide every tensor: those of ours in their order, then what only theirs has in its order."""
        names = dict.fromkeys([tensor.name for side in (ours, theirs) for tensor in side.in_order()])
        pieces: list[Piece] = []
        for name in names:
            b, o, t = (_taken(side, name) for side in (base, ours, theirs))
            source = await self._tensor(path, name, b, o, t)
            if source is not None:
                pieces.append(Piece(name, source))
        return pieces

    async def _tensor(
        self, path: str, name: str, b: Taken | None, o: Taken | None, t: Taken | None
    ) -> Taken | Computed | None:
        if _equal(o, t) or _equal(t, b):
            return o
        if _equal(o, b):
            return t
        forms = [None if each is None else form_of(each.tensor) for each in (b, o, t)]
        conflict = Conflict(
            ConflictKind.TENSOR, f"{path}\x00{name}", _form(b), _form(o), _form(t), forms=tuple(forms)
        )
        choice = self._judge.decide(conflict)
        match choice:
            case Given():
                return await self._given_tensor(conflict, choice, name)
            case Strategy(Method.THEIRS):
                return t
            case Strategy(Method.BASE):
                return b
            case Strategy() if not choice.takes_side:
                assert o is not None, "`fault_of` was asked"
                assert t is not None, "`fault_of` was asked"
                return Computed(choice, o, t, b)
            case _:
                return o

    async def _given_tensor(self, conflict: Conflict, choice: Given, name: str) -> Taken:
        file = await load(self._get, await self._find_given(choice))
        tensor = file.tensors.get(name)
        if tensor is None and len(file.tensors) == 1:
            tensor = next(iter(file.tensors.values()))
        if tensor is None:
            raise InvalidArgumentError(
                "conflict", f"{conflict.name}: v{choice.number}:{choice.path} lacks it"
            )
        return Taken(file.row, tensor)


def _container_conflict(path: str, base: str | None, ours: str | None, theirs: str | None) -> Conflict:
    return Conflict(ConflictKind.CONTAINER, f"{path}\x00{CONTAINER}", base, ours, theirs)


def _can_combine(o: FileRow, t: FileRow) -> bool:
    both = (o.entry, t.entry)
    return (
        all(entry.kind is EntryKind.FILE and entry.tensor_count for entry in both)
        and o.entry.format == t.entry.format
        and o.entry.format in _FORMATS
    )


def _taken(side: TensorFile | None, name: str) -> Taken | None:
    tensor = None if side is None else side.tensors.get(name)
    return None if side is None or tensor is None else Taken(side.row, tensor)


def _equal(one: Taken | None, other: Taken | None) -> bool:
    if one is None or other is None:
        return one is other
    return form_of(one.tensor) == form_of(other.tensor) and one.tensor.digest == other.tensor.digest


def _wholly_of(pieces: list[Piece], side: TensorFile) -> TensorFile | None:
    """Return `side` if all pieces have its tensors' bytes."""
    for piece in pieces:
        tensor = side.tensors.get(piece.name)
        if not isinstance(piece.source, Taken) or tensor is None:
            return None
        if not _equal(piece.source, Taken(side.row, tensor)):
            return None
    return side


def _three_way(b: FileRow | None, o: FileRow | None, t: FileRow | None) -> FileRow | None:
    """Return the content that only one side changed, or both alike; None when both did."""
    if o == t or t == b:
        return o
    return t if o == b else None


def _content(row: FileRow | None) -> FileRow | None:
    return None if row is None else replace(row, entry=replace(row.entry, executable=False))


def _executable(b: FileRow | None, o: FileRow, t: FileRow) -> bool:
    # Of two different truth values one differs from the base: that one was set on purpose.
    before = o.entry.executable if b is None else b.entry.executable
    return t.entry.executable if o.entry.executable == before else o.entry.executable


def _shown(row: FileRow | None) -> str | None:
    if row is None:
        return None
    entry = row.entry
    if entry.kind is not EntryKind.FILE:
        return f"{entry.kind} {entry.target}".rstrip()
    return f"{entry.size_bytes} bytes {entry.blake3.hex()[:_ID_CHARACTERS]}"


def _form(of: Taken | None) -> str | None:
    if of is None:
        return None
    tensor = of.tensor
    return f"{tensor.dtype}{list(tensor.shape)} {tensor.digest.hex()[:_ID_CHARACTERS]}"


__all__ = ["Choice", "Combined", "Computed", "FilePlan", "FindGiven", "Piece", "Plan", "Taken", "plan"]
