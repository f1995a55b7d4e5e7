"""mcr.v1 messages about policies to model values and back: a part of `_wire`."""

from mcr import _wire
from mcr.model import LogIndex
from mcr.policy import Policy, PolicyDecision, PolicyState
from mcr.v1 import policies_pb2 as pb


def policy_to_wire(policy: Policy) -> pb.Policy:
    """Return a policy as a message."""
    return pb.Policy(
        name=policy.name,
        rules=_wire.mapping_to_wire(policy.rules),
        revision=policy.revision,
        set_by=policy.set_by,
        set_at_ms=policy.set_at_ms,
    )


def policy_from_wire(model: str, policy: pb.Policy) -> Policy:
    """Read a policy of `model`."""
    return Policy(
        model=model,
        name=policy.name,
        rules=_wire.mapping_from_wire(policy.rules),
        revision=policy.revision,
        set_by=policy.set_by,
        set_at_ms=policy.set_at_ms,
    )


def state_to_wire(state: PolicyState) -> pb.ExplainPolicyResponse:
    """Return how a policy does as a message."""
    return pb.ExplainPolicyResponse(
        policy=policy_to_wire(state.policy),
        kind=_wire.kind_to_wire(state.kind),
        ref=state.ref,
        generation=state.generation,
        number=state.number,
        sample_count=state.sample_count,
        bad_count=state.bad_count,
        streak=state.streak,
        why=state.why,
        decisions=[_decision_to_wire(decision) for decision in state.decisions],
    )


def state_from_wire(model: str, state: pb.ExplainPolicyResponse) -> PolicyState:
    """Read how a policy of `model` does."""
    kind = _wire.kind_from_wire(state.kind)
    assert kind is not None, "a node sent a policy of no kind of ref"
    return PolicyState(
        policy=policy_from_wire(model, state.policy),
        kind=kind,
        ref=state.ref,
        generation=state.generation,
        number=state.number,
        sample_count=state.sample_count,
        bad_count=state.bad_count,
        streak=state.streak,
        why=tuple(state.why),
        decisions=tuple(_decision_from_wire(decision) for decision in state.decisions),
    )


def _decision_to_wire(decision: PolicyDecision) -> pb.PolicyDecision:
    return pb.PolicyDecision(
        outcome=decision.outcome,
        generation=decision.generation,
        number=decision.number,
        new_generation=decision.new_generation,
        target_number=decision.target_number,
        reason=decision.reason,
        evidence=_wire.mapping_to_wire(decision.evidence),
        at_ms=decision.at_ms,
        log_index=decision.log_index,
    )


def _decision_from_wire(decision: pb.PolicyDecision) -> PolicyDecision:
    return PolicyDecision(
        outcome=decision.outcome,
        generation=decision.generation,
        number=decision.number,
        new_generation=decision.new_generation,
        target_number=decision.target_number,
        reason=decision.reason,
        evidence=_wire.mapping_from_wire(decision.evidence),
        at_ms=decision.at_ms,
        log_index=LogIndex(decision.log_index),
    )
