"""Commands gather where that spares work, wait for nothing where it does not, and are sent once a term."""

from collections.abc import Sequence

from mcr_node.core.proposals import FORWARDED_WAITING_MAX, GATHER_FROM, GATHERED_MIN, Proposals


class Log:
    """Takes batches, or none."""

    def __init__(self) -> None:
        self.batches: list[list[bytes]] = []
        self.is_full = False

    def append(self, commands: Sequence[bytes]) -> bool:
        if self.is_full:
            return False
        self.batches.append(list(commands))
        return True


def proposals(*commands: bytes) -> Proposals:
    made = Proposals()
    for ticket, command in enumerate(commands, 1):
        made.add(ticket, command)
    return made


def many(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


def test_one_caller_is_never_made_to_wait_for_others() -> None:
    waiting, log = proposals(b"a"), Log()

    assert waiting.begin_batch(is_idle=True)
    waiting.send(1, log.append)
    waiting.add(2, b"b")

    assert not waiting.is_gathering
    assert waiting.begin_batch(is_idle=True)


def test_what_comes_while_a_batch_is_on_its_way_shares_the_next_one() -> None:
    waiting, log = proposals(b"a", b"b"), Log()

    assert not waiting.begin_batch(is_idle=False)
    waiting.add(3, b"c")
    assert waiting.begin_batch(is_idle=True)
    waiting.send(1, log.append)

    assert log.batches == [[b"a", b"b", b"c"]]


def test_enough_commands_do_not_wait_for_the_batch_before_them() -> None:
    assert not proposals(*many(GATHERED_MIN - 1)).begin_batch(is_idle=False)
    assert proposals(*many(GATHERED_MIN)).begin_batch(is_idle=False)


def test_after_a_large_batch_the_next_one_gathers_until_it_is_told_to_go() -> None:
    waiting, log = proposals(*many(GATHER_FROM)), Log()
    assert waiting.begin_batch(is_idle=True)
    waiting.send(1, log.append)
    assert not waiting.is_gathering, "nothing waits"

    waiting.add(9, b"next")
    assert waiting.is_gathering
    assert not waiting.begin_batch(is_idle=True)
    waiting.end_gathering()
    assert waiting.begin_batch(is_idle=True)
    waiting.send(1, log.append)

    # It was a small one, so the one after it is not held up.
    waiting.add(10, b"last")
    assert waiting.begin_batch(is_idle=True)


def test_nothing_is_begun_where_nothing_waits() -> None:
    assert not Proposals().begin_batch(is_idle=True)


def test_what_the_log_does_not_take_waits_in_its_order() -> None:
    waiting, log = proposals(b"a", b"b"), Log()
    waiting.accept_forwarded(1, [b"x", b"y"])
    log.is_full = True

    assert not waiting.append_forwarded(1, log.append)
    waiting.send(1, log.append)
    log.is_full = False
    assert waiting.append_forwarded(1, log.append)
    waiting.send(1, log.append)

    assert log.batches == [[b"x", b"y"], [b"a", b"b"]]


def test_what_was_handed_on_for_another_term_is_void() -> None:
    waiting, log = Proposals(), Log()
    waiting.accept_forwarded(1, [b"old"])
    waiting.accept_forwarded(2, [b"new"])

    assert waiting.append_forwarded(2, log.append)

    assert log.batches == [[b"new"]]


def test_handed_on_commands_are_bounded() -> None:
    waiting, log = Proposals(), Log()
    waiting.accept_forwarded(1, many(FORWARDED_WAITING_MAX + 5))

    waiting.append_forwarded(1, log.append)

    assert sum(map(len, log.batches)) == FORWARDED_WAITING_MAX


def test_a_command_is_sent_again_only_when_a_later_term_shows_that_it_is_lost() -> None:
    waiting, log = proposals(b"a", b"b"), Log()
    waiting.send(1, log.append)
    waiting.send(1, log.append)
    assert log.batches == [[b"a", b"b"]]

    assert waiting.decided(b"a", 2) == [1]
    waiting.send_lost_again(2)
    waiting.send(2, log.append)

    assert log.batches == [[b"a", b"b"], [b"b"]]
    assert waiting.waiting == 1


def test_a_command_that_two_callers_ask_for_answers_both() -> None:
    waiting = proposals(b"same", b"same")

    assert waiting.decided(b"same", 1) == [1, 2]
    assert waiting.decided(b"same", 1) == []


def test_who_gave_up_is_not_answered_and_its_command_not_sent() -> None:
    waiting, log = proposals(b"same", b"same", b"other"), Log()

    waiting.forget(1, b"same")
    waiting.forget(3, b"other")
    waiting.send(1, log.append)

    assert log.batches == [[b"same"]]
    assert waiting.decided(b"same", 1) == [2]
    assert waiting.waiting == 0
