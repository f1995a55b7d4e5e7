"""Rollback policies for blocking callers: parts of `mcr.client.Model` and `Channel`."""

from mcr.aio import AsyncChannel, AsyncModel
from mcr.loop_thread import LoopThread
from mcr.model import Parameters, Ref
from mcr.policies import DECISIONS_MAX
from mcr.policy import Policy, PolicyState
from mcr.policy_rules import AUTOMATIC


class BlockingPolicies:
    """The methods of `mcr.client.Model` about policies; it brings the model and the loop."""

    _model: AsyncModel
    _loop: LoopThread

    def set_policy(self, name: str, rules: Parameters) -> None:
        """See `AsyncModel.set_policy`."""
        self._loop.run(self._model.set_policy(name, rules), "policy")

    def delete_policy(self, name: str) -> None:
        """See `AsyncModel.delete_policy`."""
        self._loop.run(self._model.delete_policy(name), "policy")

    def policies(self) -> list[Policy]:
        """See `AsyncModel.policies`."""
        return self._loop.run(self._model.policies(), "policy")

    def policy(self, name: str, *, decisions: int = DECISIONS_MAX) -> PolicyState:
        """See `AsyncModel.policy`."""
        return self._loop.run(self._model.policy(name, decisions=decisions), "policy")


class BlockingGuards:
    """The methods of `mcr.client.Channel` that hold moves back, or let them go."""

    _channel: AsyncChannel
    _loop: LoopThread

    def freeze(self, level: str = AUTOMATIC, *, reason: str = "") -> Ref:
        """See `AsyncChannel.freeze`."""
        return self._loop.run(self._channel.freeze(level, reason=reason), "channel")

    def unfreeze(self, *, reason: str = "") -> Ref:
        """See `AsyncChannel.unfreeze`."""
        return self._loop.run(self._channel.unfreeze(reason=reason), "channel")

    def approve(self) -> Ref:
        """See `AsyncChannel.approve`."""
        return self._loop.run(self._channel.approve(), "channel")

    def withdraw(self) -> Ref:
        """See `AsyncChannel.withdraw`."""
        return self._loop.run(self._channel.withdraw(), "channel")
