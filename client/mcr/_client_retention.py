"""Retention for blocking callers: a part of `mcr.client.Model`."""

from collections.abc import Mapping

from mcr.aio import AsyncModel
from mcr.loop_thread import LoopThread
from mcr.retention_rules import BranchRules, RetentionRules, Verdict


class BlockingRetention:
    """The methods of `mcr.client.Model` about which versions stay; it brings the model and the loop."""

    _model: AsyncModel
    _loop: LoopThread

    def set_retention(self, rules: RetentionRules | None, *, branch: str = "") -> None:
        """See `AsyncModel.set_retention`."""
        self._loop.run(self._model.set_retention(rules, branch=branch), "retention")

    def retention(self) -> list[BranchRules]:
        """See `AsyncModel.retention`."""
        return self._loop.run(self._model.retention(), "retention")

    def plan_retention(self, *, instead: Mapping[str, RetentionRules] | None = None) -> list[Verdict]:
        """See `AsyncModel.plan_retention`."""
        return self._loop.run(self._model.plan_retention(instead=instead), "retention")

    def apply_retention(self) -> list[int]:
        """See `AsyncModel.apply_retention`."""
        return self._loop.run(self._model.apply_retention(), "retention")
