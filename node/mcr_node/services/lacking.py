"""What a repair knows of chunks that lack copies: which, in what order they are copied, and to whom."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import field

from mcr.durability import Durability
from mcr.model import ChunkId
from mcr.values import dataclass
from mcr_node.core.members import Member
from mcr_node.core.placement.ring import chosen
from mcr_node.services.census import Copies, Known
from mcr_node.services.lives import Lives
from mcr_node.services.presence import Present

Order = Callable[[Sequence[Member], ChunkId], Sequence[Member]]
# Who took part in a run, by id; who of them is leaving; how many copies were wanted; the lives of the others.
Among = tuple[tuple[int, ...], tuple[int, ...], int, tuple[int, ...]]


@dataclass(slots=True)
class Lost:
    """A chunk that no node has which answers, and who needs it."""

    file: str = ""
    versions: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Lacking:
    """What is known about the copies of one model's chunks.

    Attributes:
        looked_at: number of the newest version that was looked through; all before it were.
        looked_ns: when all of them were last.
    """

    looked_at: int = 0
    looked_ns: int = 0
    known: Known = field(default_factory=Known)
    lost: dict[ChunkId, Lost] = field(default_factory=dict)


@dataclass(slots=True)
class Plan:
    """What a repair would copy.

    Attributes:
        bytes_total: of the copies, before encoding.
    """

    chunks: int = 0
    bytes_total: int = 0
    lost: int = 0


@dataclass(frozen=True, slots=True)
class Round:
    """Who takes part in one run; fixed for its length.

    Attributes:
        wanted: copies that each chunk is to have.
        epoch: of the members.
        order: ranks them for a chunk.
        lives: of those whose copies are counted on.
    """

    present: Present
    myself: Member
    wanted: int
    epoch: int
    order: Order
    lives: Lives = field(default_factory=Lives, compare=False)

    @property
    def nodes(self) -> tuple[Member, ...]:
        """Who takes copies: this node first, then the others that answer and stay."""
        return (self.myself, *(member for member in self.present.alive if not member.leaving))

    @property
    def leaving(self) -> tuple[int, ...]:
        """Ids of those that answer, and only give."""
        return tuple(member.node_id for member in self.present.alive if member.leaving)

    @property
    def known(self) -> dict[int, Member]:
        """All that answer, by id."""
        return {member.node_id: member for member in (self.myself, *self.present.alive)}

    @property
    def among(self) -> Among:
        """What decides about copies: while it stays the same, what was found stays true.

        A node that started again may have set copies aside that it met damaged, and forgotten to say so.
        """
        ids = tuple(member.node_id for member in self.nodes)
        return ids, self.leaving, self.wanted, self.present.lives

    def targets(self, copies: Copies, refused: Mapping[int, object]) -> tuple[Member, ...]:
        """Return who is to get a chunk: those that placement names for it, but for those who refused."""
        nodes = [member for member in self.nodes if member.node_id not in refused]
        sites = {member.site: None for member in self.nodes}
        goal = Durability(self.wanted, min(self.wanted, len(sites)))
        known = self.known
        held = [known[one] for one in copies.holders]
        return chosen(self.order(nodes, copies.chunk_id), goal, held=held)


# A chunk of a model that lacks copies, and who is to get it.
Todo = tuple[Lacking, Copies, tuple[int, ...]]


def by_danger(models: Sequence[Lacking], found: Round) -> list[Todo]:
    """Return what lacks copies and can be copied: the fewest copies first, then what goes the same way."""
    todo = [
        (model, copies, tuple(member.node_id for member in found.targets(copies, {})))
        for model in models
        for copies in model.known.short.values()
        if copies.anywhere
    ]
    todo.sort(key=lambda each: (len(each[1].anywhere), *way_of(each), each[1].manifest))
    return todo


def way_of(todo: Todo) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Return who has a chunk, and who gets it: those alike are copied together."""
    _, copies, targets = todo
    return copies.holders, copies.leaving, targets


def sentence_of(chunk_id: ChunkId, lost: Lost) -> str:
    """Say of a lost chunk who needs it."""
    versions = ", ".join(lost.versions) or "some version"
    what = f"{lost.file} of {versions}" if lost.file else versions
    return f"chunk {chunk_id.hex()}, needed by {what}, is on no node that answers"
