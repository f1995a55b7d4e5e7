"""What people did to models, kept apart from the state: a ledger, and the laws that it checks the state by.

The ledger knows commands and their outcomes, and works out by itself which versions there are, where every
name was, and what must not be lost. It also has a disk: contents are brought in a round, a mark is swept
after the rules that nodes sweep by, so "collected" means that the content is really not there any more.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

from mcr.model import ChunkId, RefKind
from mcr.record import decode_record
from mcr.references import parse_reference
from mcr_node.core.state import collecting, keys, queries, trash_queries
from mcr_node.core.state.keys import RefName
from mcr_node.core.state.records import MoveRow, RefRow
from mcr_node.core.state.view import View, prefix_end
from tests.support.state_signatures import signed_in

MODELS = ("a/one", "a/two")
_decoded = lru_cache(maxsize=4096)(decode_record)
_move = lru_cache(maxsize=4096)(MoveRow.unpack)
_KINDS = {b"b": RefKind.BRANCH, b"c": RefKind.CHANNEL, b"t": RefKind.TAG}


@dataclass(frozen=True, slots=True)
class Kept:
    """A version as it was made, which never changes."""

    content: int
    parents: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Marked:
    """What a node knows of a mark when it sweeps: what was needed then, and what is too young."""

    roots: frozenset[int]
    held_since: int


@dataclass
class Ledger:
    """What was done.

    Attributes:
        versions: of each model, in order.
        moves: of each name that ever was, every verb and number; 0 = it was deleted.
        loaded: what each consumer of a model has loaded, and whether it was given up before it said so.
        pins: models and numbers.
        waiting: the versions of each merge that waits for decisions, by model and number of the merge.
        removed: of each model, where `main` was whenever the whole model was deleted; the last one last.
        given_up: models and numbers that are gone for good, lawfully.
        signed: public keys that signed a version, by model and number.
        disk: contents that nodes hold, by the last round in which they were brought or counted on.
        marked: of the last mark.
    """

    versions: dict[str, list[Kept]] = field(default_factory=lambda: {model: [] for model in MODELS})
    moves: dict[RefName, list[tuple[str, int]]] = field(default_factory=dict)
    loaded: dict[tuple[str, str], tuple[int, bool]] = field(default_factory=dict)
    pins: set[tuple[str, int]] = field(default_factory=set)
    waiting: dict[tuple[str, int], tuple[int, ...]] = field(default_factory=dict)
    removed: dict[str, list[int]] = field(default_factory=lambda: {model: [] for model in MODELS})
    given_up: set[tuple[str, int]] = field(default_factory=set)
    signed: dict[tuple[str, int], set[bytes]] = field(default_factory=dict)
    disk: dict[int, int] = field(default_factory=dict)
    marked: Marked = Marked(frozenset(), 0)

    # What happened

    def made(self, model: str, branch: str, verb: str, kept: Kept) -> None:
        self.versions[model].append(kept)
        self.moved(RefName(model, RefKind.BRANCH, branch), verb, len(self.versions[model]))

    def moved(self, of: RefName, verb: str, number: int) -> None:
        self.moves.setdefault(of, []).append((verb, number))

    def at(self, of: RefName) -> int:
        """Return where a name is; 0 when there is none."""
        moves = self.moves.get(of)
        return moves[-1][1] if moves else 0

    def swept(self) -> None:
        """Forget what nobody needed as of the last mark, but for what came lately."""
        for content, brought in list(self.disk.items()):
            if content not in self.marked.roots and brought < self.marked.held_since:
                del self.disk[content]

    def saw_mark(self, view: View) -> None:
        roots = frozenset(content_of(manifest) for _, _, manifest in trash_queries.root_manifests(view))
        self.marked = Marked(roots, collecting.held_since(view))

    # The laws

    def check(self, view: View) -> None:
        """Assert the four laws, after any command."""
        for model in MODELS:
            self._check_numbers(view, model)
            self._check_nothing_needed_is_lost(view, model)
        self._check_histories(view)
        self._check_heads(view)
        assert signed_in(view) == self.signed, "a signature is lost, or was never made"

    def _check_numbers(self, view: View, model: str) -> None:
        """Numbers have no gaps, and what stands under them is what was made."""
        rows = list(view.scan(*keys.versions_before(model, keys.NUMBER_MAX)))
        assert [keys.number_in(key) for key, _ in rows] == list(range(1, len(self.versions[model]) + 1))
        for kept, (key, data) in zip(self.versions[model], rows, strict=True):
            record = _decoded(data)
            assert record.number == keys.number_in(key)
            assert Kept(content_of(record.manifest), record.parents) == kept

    def needed(self, model: str) -> Iterator[tuple[int, str]]:
        """Yield the versions that must be there whole, and what for."""
        for of, moves in self.moves.items():
            if of.model == model and moves[-1][1]:
                yield moves[-1][1], f"{of} is at it"
        for owner, number in self.pins:
            if owner == model:
                yield number, "it is pinned"
        for (owner, merge), numbers in self.waiting.items():
            if owner == model:
                yield from ((number, f"merge {merge} waits for it") for number in numbers)
        for (owner, consumer), (number, was_given_up) in self.loaded.items():
            if owner == model and number and not was_given_up:
                yield number, f"{consumer} has it loaded"

    def _check_nothing_needed_is_lost(self, view: View, model: str) -> None:
        """No served, pinned or named version is given up, and none that was not given up is collected."""
        found = trash_queries.contents(view, model, before=None, limit=trash_queries.PAGE_MAX)
        needed = dict(self.needed(model))
        for each in found:
            if each.is_purged:
                assert each.number not in needed, f"v{each.number} is gone, but {needed[each.number]}"
                self.given_up.add((model, each.number))
                continue
            assert (model, each.number) not in self.given_up, f"v{each.number} came back from nowhere"
            assert content_of(each.manifest) in self.disk, f"v{each.number} was collected"

    def _check_histories(self, view: View) -> None:
        """The history of every ref is complete: each move, once, under the next generation, for ever."""
        found: dict[RefName, list[tuple[str, int]]] = {}
        for key, value in view.scan(b"h", prefix_end(b"h")):
            of, row = name_in(key[1:-9]), _move(value)
            found.setdefault(of, []).append((row.verb, row.number))
            assert keys.number_in(key) == len(found[of]), f"{of} has a gap"
        assert found == self.moves

    def _check_heads(self, view: View) -> None:
        """Exactly the names that exist have a head, and it can be reached, with all that it descends from."""
        rows = {name_in(key[1:]): RefRow.unpack(value) for key, value in view.scan(b"r", prefix_end(b"r"))}
        assert {of: row.number for of, row in rows.items()} == {
            of: moves[-1][1] for of, moves in self.moves.items() if moves[-1][1]
        }
        for of, row in rows.items():
            assert row.generation == len(self.moves[of])
            reference = parse_reference(f"{of.model}@{of}")
            assert queries.resolve(view, reference) == row.number
            assert queries.get_version(view, of.model, row.number).deleted_at_ms == 0, f"{of} is in the trash"
            assert self.versions[of.model][row.number - 1].content in self.disk
            self._check_descent(of.model, row.number)

    def _check_descent(self, model: str, number: int) -> None:
        # Records are what `_check_numbers` compared with these, so a parent that is here can be read there.
        for parent in self.versions[model][number - 1].parents:
            assert 0 < parent < number


def content_of(manifest: ChunkId) -> int:
    """Return the content that a manifest of these worlds stands for."""
    return int.from_bytes(manifest, "big")


def name_in(key: bytes) -> RefName:
    """Return the name in a key of a ref or of a move, without its family and its generation."""
    model, _, rest = key.partition(b"\x00")
    return RefName(model.decode(), _KINDS[rest[:1]], rest[1:].decode())
