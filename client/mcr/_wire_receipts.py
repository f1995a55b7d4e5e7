"""mcr.v1 messages about receipts to model values and back: a part of `_wire`."""

from mcr.model import LogIndex
from mcr.serving import Receipt, Serving
from mcr.v1 import receipts_pb2 as pb

_STATE_TO_WIRE = {
    "loaded": pb.RECEIPT_STATE_LOADED,
    "failed": pb.RECEIPT_STATE_FAILED,
    "gone": pb.RECEIPT_STATE_GONE,
}
_STATE_FROM_WIRE = {wire: state for state, wire in _STATE_TO_WIRE.items()}


def state_to_wire(state: str) -> "pb.ReceiptState.ValueType":
    """Return the wire value of a state; that of none when it is unknown, which a node refuses."""
    return _STATE_TO_WIRE.get(state, pb.RECEIPT_STATE_UNSPECIFIED)


def state_from_wire(state: "pb.ReceiptState.ValueType") -> str:
    """Return the state of a wire value; "" when it is unset or unknown."""
    return _STATE_FROM_WIRE.get(state, "")


def receipt_to_wire(receipt: Receipt) -> pb.Receipt:
    """Return a receipt as a message."""
    return pb.Receipt(
        consumer=receipt.consumer,
        rank=receipt.rank,
        state=state_to_wire(receipt.state),
        number=receipt.number,
        version_id=bytes.fromhex(receipt.version_id),
        channel=receipt.channel,
        generation=receipt.generation,
        principal=receipt.principal,
        at_ms=receipt.at_ms,
        log_index=receipt.log_index,
    )


def receipt_from_wire(receipt: pb.Receipt) -> Receipt:
    """Read a receipt."""
    return Receipt(
        consumer=receipt.consumer,
        rank=receipt.rank,
        state=state_from_wire(receipt.state),
        number=receipt.number,
        version_id=receipt.version_id.hex(),
        channel=receipt.channel,
        generation=receipt.generation,
        principal=receipt.principal,
        at_ms=receipt.at_ms,
        log_index=LogIndex(receipt.log_index),
    )


def serving_to_wire(serving: Serving) -> pb.Serving:
    """Return what a consumer has loaded as a message."""
    return pb.Serving(
        consumer=serving.consumer,
        rank=serving.rank,
        number=serving.number,
        version_id=bytes.fromhex(serving.version_id),
        channel=serving.channel,
        generation=serving.generation,
        since_ms=serving.since_ms,
        heard_ms=serving.heard_ms,
        last=receipt_to_wire(serving.last),
    )


def serving_from_wire(serving: pb.Serving) -> Serving:
    """Read what a consumer has loaded."""
    return Serving(
        consumer=serving.consumer,
        rank=serving.rank,
        number=serving.number,
        version_id=serving.version_id.hex(),
        channel=serving.channel,
        generation=serving.generation,
        since_ms=serving.since_ms,
        heard_ms=serving.heard_ms,
        last=receipt_from_wire(serving.last),
    )
