"""Waiting for what other processes do, by looking again and again: there is nothing to be told by."""

from collections.abc import Callable

from tenacity import (
    RetryError,
    Retrying,
    retry_if_exception_type,
    retry_if_result,
    stop_after_delay,
    wait_fixed,
)

from mcr.errors import McrError

POLL_S = 0.05


def until(condition: Callable[[], bool], timeout_s: float) -> None:
    """Look until something is so; a node that refuses meanwhile is looked at again."""
    retrying = Retrying(
        stop=stop_after_delay(timeout_s),
        wait=wait_fixed(POLL_S),
        retry=retry_if_result(lambda found: not found) | retry_if_exception_type(McrError),
    )
    try:
        retrying(condition)
    except RetryError as error:
        raise AssertionError(f"it was not so within {timeout_s:g} s") from error
