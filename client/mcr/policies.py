"""Rollback policies, as a client sets them and asks for them: parts of `AsyncModel` and `AsyncChannel`."""

from typing import cast

from mcr import _wire
from mcr import _wire_policies as wire
from mcr.blocking import decided
from mcr.connection import Connection
from mcr.errors import ReferenceNotFoundError
from mcr.model import Parameters, Ref, RefKind
from mcr.policy import Policy, PolicyState
from mcr.policy_rules import AUTOMATIC, NOT_FROZEN, parse_rules
from mcr.reading import ModelReader
from mcr.reporting import write_header
from mcr.v1 import policies_pb2 as pb

DECISIONS_MAX = 64


class PolicyCalls(ModelReader):
    """The methods of `AsyncModel` about policies."""

    async def set_policy(self, name: str, rules: Parameters) -> None:
        """Set a rollback policy, or replace the one of that name.

        Args:
            name: of the policy.
            rules: its fields, as in its YAML file: `{"channel": "production", "metric": "loss", "above": 2}`;
                `docs/examples/policy-loss.yaml` explains them all.

        Raises:
            InvalidArgumentError: names the field that is wrong.
            ReferenceNotFoundError: it names a tag that there is not.
            ProtectedError: who may not move the channel may set no policy for it.
        """
        parse_rules(rules)
        request = pb.SetPolicyRequest(
            header=write_header(None), model=self.name, name=name, rules=_wire.mapping_to_wire(rules)
        )
        await decided(self._connection.policies.set_policy(request))

    async def delete_policy(self, name: str) -> None:
        """Delete a policy, and what it decided; what it moved keeps the evidence in its history.

        Raises:
            ReferenceNotFoundError: there is none of that name.
        """
        request = pb.DeletePolicyRequest(header=write_header(None), model=self.name, name=name)
        await decided(self._connection.policies.delete_policy(request))

    async def policies(self) -> list[Policy]:
        """List the policies of the model by name."""
        answer = await self._connection.policies.list_policies(pb.ListPoliciesRequest(model=self.name))
        return [wire.policy_from_wire(self.name, policy) for policy in answer.policies]

    async def policy(self, name: str, *, decisions: int = DECISIONS_MAX) -> PolicyState:
        """Return how a policy does: what it decided, and why it does something or nothing now.

        Args:
            name: of the policy.
            decisions: the last so many, at most 64.

        Raises:
            ReferenceNotFoundError: there is none of that name.
        """
        request = pb.ExplainPolicyRequest(model=self.name, name=name, decisions_max=decisions)
        return wire.state_from_wire(self.name, await self._connection.policies.explain_policy(request))


async def channel_ref(model: ModelReader, name: str) -> Ref:
    """Return where a channel is.

    Raises:
        ReferenceNotFoundError: it does not exist.
    """
    for ref in await model.refs(RefKind.CHANNEL):
        if ref.name == name:
            return ref
    raise ReferenceNotFoundError(model.name, f"channel:{name}", "no such channel")


class ChannelGuards:
    """The methods of `AsyncChannel` that hold moves back, or let them go."""

    name: str
    _model: ModelReader
    _connection: Connection

    async def freeze(self, level: str = AUTOMATIC, *, reason: str = "") -> Ref:
        """Freeze the channel where it is.

        Args:
            level: `automatic`: no policy moves it; `all`: and nobody moves it forward. Back it goes always.
            reason: kept with it.

        Raises:
            ReferenceNotFoundError: there is no such channel.
            ProtectedError: its rules do not let you move it.
        """
        return await self._freeze(level, reason)

    async def unfreeze(self, *, reason: str = "") -> Ref:
        """End a freeze, by whomever; see `freeze`."""
        return await self._freeze(NOT_FROZEN, reason)

    async def _freeze(self, level: str, reason: str) -> Ref:
        request = pb.FreezeChannelRequest(
            header=write_header(None),
            model=self._model.name,
            channel=self.name,
            level=level,
            reason=reason,
        )
        answer = await decided(self._connection.policies.freeze_channel(request))
        return _wire.ref_from_wire(self._model.name, answer.ref)

    async def approve(self) -> Ref:
        """Let the move happen that waits for approval; somebody else must have asked for it.

        Raises:
            ReferenceNotFoundError: no move waits.
            ProtectedError: you asked for it yourself, or a rule is not met.
            HeadMovedError: another move was asked for meanwhile; look at it first.
        """
        return await self._answer(withdraw=False)

    async def withdraw(self) -> Ref:
        """Drop the move that waits for approval; it stays where it is."""
        return await self._answer(withdraw=True)

    async def _answer(self, *, withdraw: bool) -> Ref:
        ref = await channel_ref(self._model, self.name)
        if ref.pending is None:
            raise ReferenceNotFoundError(
                self._model.name, f"channel:{self.name}", "no move waits for approval"
            )
        request = pb.ApproveMoveRequest(
            header=write_header(None),
            model=self._model.name,
            channel=self.name,
            request=cast("int", ref.pending["index"]),
            withdraw=withdraw,
        )
        answer = await decided(self._connection.policies.approve_move(request))
        return _wire.ref_from_wire(self._model.name, answer.ref)
