"""The little language of the scenarios about replicated state: one line, one command or question.

    as NAME                                              who asks from now on
    wait SECONDS                                         the clock goes on (or, negative, back)
    request ID                                           the next command carries this request id
    commit [on BRANCH] [expect VERSION|none] [parent VERSION] [METRIC=VALUE ...]
    rollback branch NAME | channel NAME [to previous|last-good|VERSION] [because REASON]
    branch NAME at VERSION       tag NAME at VERSION       delete branch NAME
    set CHANNEL VERSION [at generation N]
    remove VERSION ...           into the trash, for a day
    remove KIND NAME             a tag, channel or branch
    restore VERSION ...          pin VERSION               unpin VERSION
    mark                         the next round of garbage collection
    roots                        versions whose bytes are kept
    protect CHANNEL [actors A,B] [branch NAME] [metrics M,N]
    report VERSION METRIC=VALUE ...
    log                          versions, newest first
    show REFERENCE               record, metrics, refs
    history KIND NAME            moves, newest first
    when KIND NAME SECONDS       the move in force so many seconds after the start
    resolve REFERENCE

Each command takes one second of log time.
"""

from collections.abc import Callable

from mcr.errors import McrError
from mcr.model import ParameterValue, RefKind, RefMove, Version
from mcr.references import parse_reference
from mcr_node.core.state import queries
from mcr_node.core.state.commands import Command, LastGoodTarget, NumberTarget, PreviousTarget, Target
from mcr_node.core.state.outcomes import (
    CountResult,
    DeletedResult,
    DigestResult,
    MergeResult,
    Outcome,
    PolicyResult,
    ReceiptResult,
    RefResult,
    Rejected,
    ReportResult,
    ReportsResult,
    RoundResult,
    SessionResult,
    VersionResult,
)
from tests.support import state_trash as trash
from tests.support.state_world import MODEL, START_MS, StateWorld


class StateStory:
    """One scenario's state, and the execution of its lines."""

    def __init__(self) -> None:
        self.world = StateWorld()

    def execute(self, line: str) -> str:
        verb, *words = line.split()
        method: Callable[[list[str]], str] = getattr(self, f"do_{verb}")
        try:
            return method(words)
        except McrError as error:
            return f"{error.code}: {error}"

    # Commands

    def do_as(self, words: list[str]) -> str:
        [self.world.principal] = words
        return f"{words[0]} asks"

    def do_wait(self, words: list[str]) -> str:
        self.world.at_ms += int(words[0]) * 1000
        return f"it is {(self.world.at_ms - START_MS) // 1000} s"

    def do_request(self, words: list[str]) -> str:
        self.world.next_request = words[0].encode()
        return f"the next request is {words[0]}"

    def do_commit(self, words: list[str]) -> str:
        options, metrics = _options(words)
        expected = options.get("expect")
        parent = options.get("parent")
        command = self.world.commit(
            options.get("on", "main"),
            expected_head=None if expected is None else 0 if expected == "none" else _number(expected),
            parent=None if parent is None else _number(parent),
            metrics=metrics,
            content=1,
        )
        return self._apply(command)

    def do_rollback(self, words: list[str]) -> str:
        kind, name, *rest = words
        target: Target = PreviousTarget()
        if rest[:1] == ["to"]:
            target = LastGoodTarget() if rest[1] == "last-good" else target
            target = NumberTarget(_number(rest[1])) if rest[1].startswith("v") else target
            rest = rest[2:]
        reason = " ".join(rest[1:]) if rest[:1] == ["because"] else ""
        if kind == "branch":
            return self._apply(self.world.roll_back_branch(name, target, reason))
        return self._apply(self.world.roll_back_channel(target, name, reason))

    def do_branch(self, words: list[str]) -> str:
        return self._apply(self.world.create_branch(words[0], _number(words[2])))

    def do_tag(self, words: list[str]) -> str:
        return self._apply(self.world.create_tag(words[0], _number(words[2])))

    def do_delete(self, words: list[str]) -> str:
        return self._apply(self.world.delete_branch(words[1]))

    def do_set(self, words: list[str]) -> str:
        channel, version, *rest = words
        expected = int(rest[2]) if rest else None
        return self._apply(self.world.set_channel(_number(version), channel, expected=expected))

    def do_protect(self, words: list[str]) -> str:
        options, _ = _options(words[1:])
        rules: dict[str, ParameterValue] = {
            name: value if name == "branch" else value.split(",") for name, value in options.items()
        }
        return self._apply(self.world.protect(rules, words[0]))

    def do_remove(self, words: list[str]) -> str:
        if words[0][1:].isdigit():
            return self._apply(trash.delete(self.world, *map(_number, words)))
        return self._apply(trash.delete_name(self.world, RefKind(words[0]), words[1]))

    def do_restore(self, words: list[str]) -> str:
        return self._apply(trash.restore(self.world, *map(_number, words)))

    def do_pin(self, words: list[str]) -> str:
        return self._apply(trash.pin(self.world, _number(words[0])))

    def do_unpin(self, words: list[str]) -> str:
        return self._apply(trash.unpin(self.world, _number(words[0])))

    def do_mark(self, _: list[str]) -> str:
        return self._apply(trash.mark(self.world))

    def do_roots(self, _: list[str]) -> str:
        return " ".join(f"v{number}" for number in trash.roots(self.world))

    def do_report(self, words: list[str]) -> str:
        _, metrics = _options(words[1:])
        return self._apply(self.world.report(_number(words[0]), metrics))

    def _apply(self, command: Command) -> str:
        return self._said(self.world.apply(command))

    def _said(self, outcome: Outcome) -> str:
        if isinstance(outcome, Rejected):
            return f"rejected {outcome.code}: {outcome.error()}"
        retried = " again" if outcome.already_applied else ""
        match outcome.result:
            case VersionResult(number):
                said = f"v{number}"
            case RefResult(ref, already, waits):
                at = f"at v{ref.number}" if ref.number else "deleted"
                said = (
                    f"{ref.kind}:{ref.name} {at} generation {ref.generation}"
                    + " already" * already
                    + " waits" * waits
                )
            case ReportResult(number, metric_count, decision):
                said = f"v{number} has {metric_count} metrics" + (f"; {decision}" if decision else "")
            case PolicyResult(name, decision):
                said = decision or f"policy {name}"
            case ReceiptResult(number, channel, generation):
                said = f"v{number}" + (f" of channel:{channel} generation {generation}" if channel else "")
            case DeletedResult(numbers):
                said = f"deleted {', '.join(f'v{number}' for number in numbers)}"
            case CountResult(count):
                said = f"{count} changed"
            case RoundResult(number):
                said = f"round {number}"
            case SessionResult(session, _, generation):
                said = f"session {session} has {generation} parts"
            case MergeResult(merge, open_count):
                said = f"merge {merge} has {open_count} conflicts"
            case DigestResult():
                said = "a digest was noted"
            case ReportsResult(outcomes):
                said = "; ".join(self._said(each) for each in outcomes)
        return f"accepted{retried} index {outcome.index}: {said}"

    # Questions

    def do_log(self, _: list[str]) -> str:
        versions = queries.list_versions(self.world.view, MODEL, before=None, limit=100)
        return "\n".join(_shown(version) for version in versions)

    def do_show(self, words: list[str]) -> str:
        number = queries.resolve(self.world.view, parse_reference(words[0], model=MODEL))
        version = queries.get_version(self.world.view, MODEL, number)
        metrics = [f"{name}={value}" for name, value in (version.metrics or {}).items()]
        return "\n".join([_shown(version), *metrics])

    def do_history(self, words: list[str]) -> str:
        moves = queries.ref_history(
            self.world.view, MODEL, RefKind(words[0]), words[1], before_generation=None, limit=100
        )
        return "\n".join(_shown_move(move) for move in moves)

    def do_when(self, words: list[str]) -> str:
        at_ms = START_MS + int(words[2]) * 1000
        move = queries.ref_at(self.world.view, MODEL, RefKind(words[0]), words[1], at_ms)
        return "nothing yet" if move is None else _shown_move(move)

    def do_resolve(self, words: list[str]) -> str:
        return f"v{queries.resolve(self.world.view, parse_reference(words[0], model=MODEL))}"


def _number(version: str) -> int:
    return int(version.removeprefix("v"))


def _options(words: list[str]) -> tuple[dict[str, str], dict[str, float]]:
    """Split `name value` pairs from `metric=value` words."""
    metrics = {name: float(value) for name, _, value in (word.partition("=") for word in words) if value}
    plain = [word for word in words if "=" not in word]
    return dict(zip(plain[::2], plain[1::2], strict=True)), metrics


def _shown(version: Version) -> str:
    parts = [version.name, str(version.kind), f"on {version.branch}", f"by {version.creator}"]
    parts += [f"parent v{parent}" for parent in version.parents]
    parts += [f"content of v{version.target_number}"] if version.target_number else []
    parts += [f"({version.description})"] if version.description else []
    parts += [f"<- {', '.join(version.refs)}"] if version.refs else []
    return " ".join(parts)


def _shown_move(move: RefMove) -> str:
    at = f"v{move.number}" if move.number else "nothing"
    reason = f": {move.reason}" if move.reason else ""
    seconds = (move.at_ms - START_MS) // 1000
    return f"generation {move.generation} {move.verb} {at} at {seconds} s by {move.actor}{reason}"
