"""The two forms of a diff: a JSON object for programs, lines for people. Pure."""

from typing import TYPE_CHECKING

from mcr.cli.forms import count, number, size, table
from mcr.cli.output import JsonObject, JsonValue, one_line, to_json

if TYPE_CHECKING:
    # For types only: the module brings NumPy's helpers along.
    from mcr.comparing import Diff, FileChange, ParameterChange, TensorDiff

_SIGNS = {"added": "+", "removed": "-"}


def diff_object(diff: "Diff") -> JsonObject:
    """Return a diff as JSON; `tensors` is null where they were not compared."""
    return {
        "model": diff.a.model,
        "a": diff.a.name,
        "b": diff.b.name,
        "id_a": diff.a.id,
        "id_b": diff.b.id,
        "files": [
            {"path": change.path, "kind": change.kind, "size_a": change.size_a, "size_b": change.size_b}
            for change in diff.files
        ],
        "parameters": [
            {"key": change.key, "kind": _kind_of_parameter(change), "a": change.a, "b": change.b}
            for change in diff.parameters
        ],
        "metrics": [{"name": change.name, "a": change.a, "b": change.b} for change in diff.metrics],
        "tensors": None if diff.tensors is None else [_tensor_object(item) for item in diff.tensors],
    }


def _kind_of_parameter(change: "ParameterChange") -> str:
    if not change.in_a:
        return "added"
    return "changed" if change.in_b else "removed"


def _tensor_object(item: "TensorDiff") -> dict[str, JsonValue]:
    change = item.change
    return {
        "file": item.file,
        "file_a": item.file_a or None,
        "name": change.name,
        "kind": change.kind,
        "dtype_a": change.dtype_a,
        "dtype_b": change.dtype_b,
        "shape_a": change.shape_a,
        "shape_b": change.shape_b,
        "changed_share": change.changed_share,
        "norm_a": change.norm_a,
        "norm_b": change.norm_b,
        "norm_of_change": change.norm_of_change,
        "relative_change": change.relative_change,
        "cosine": change.cosine,
        "max_abs_change": change.max_abs_change,
        "non_finite_a": change.non_finite_a,
        "non_finite_b": change.non_finite_b,
    }


def diff_text(diff: "Diff") -> str:
    """Return a diff for people; empty when nothing differs."""
    parameters = table(
        (
            f"  {_SIGNS.get(_kind_of_parameter(change), '~')} {one_line(change.key)}",
            _sides(to_json(change.a) if change.in_a else None, to_json(change.b) if change.in_b else None),
        )
        for change in diff.parameters
    )
    metrics = table(
        (
            f"  {_sign(change.a is None, change.b is None)} {one_line(change.name)}",
            _sides(
                None if change.a is None else number(change.a), None if change.b is None else number(change.b)
            ),
        )
        for change in diff.metrics
    )
    files = table(
        (f"  {_SIGNS.get(change.kind, '~')} {one_line(change.path)}", _sizes(change)) for change in diff.files
    )
    parts: list[str] = []
    for heading, body in (
        ("parameters", parameters),
        ("metrics", metrics),
        ("files", files),
        ("tensors", _tensors_text(diff)),
    ):
        if body:
            parts += [heading, body]
    return "\n".join(parts)


def _sign(is_added: bool, is_removed: bool) -> str:
    return "+" if is_added else ("-" if is_removed else "~")


def _sides(a: str | None, b: str | None) -> str:
    if a is None:
        return b or ""
    return a if b is None else f"{a} -> {b}"


def _sizes(change: "FileChange") -> str:
    if change.kind == "added":
        return size(change.size_b)
    if change.kind == "removed":
        return size(change.size_a)
    # Most training changes numbers, not sizes; say so rather than print the same size twice.
    if change.size_a == change.size_b:
        return f"{size(change.size_b)}, same size"
    return f"{size(change.size_a)} -> {size(change.size_b)}"


def _tensors_text(diff: "Diff") -> str:
    rows: list[tuple[str, ...]] = []
    unchanged = 0
    for item in diff.tensors or ():
        change = item.change
        if change.kind == "unchanged":
            unchanged += 1
            continue
        sign = _SIGNS.get(change.kind, "~")
        rows.append((f"  {sign} {one_line(change.name)}", _form(item), _figures(item)))
    body = table(rows)
    if unchanged:
        body += f"{chr(10) if body else ''}  {count(unchanged, 'tensor')} unchanged in these files"
    return body


def _form(item: "TensorDiff") -> str:
    change = item.change
    a = None if change.shape_a is None else f"{change.dtype_a}{list(change.shape_a)}"
    b = None if change.shape_b is None else f"{change.dtype_b}{list(change.shape_b)}"
    return _sides(a, b if b != a else None)


def _figures(item: "TensorDiff") -> str:
    change = item.change
    came = f", from {one_line(item.file_a)}" if item.file_a not in ("", item.file) else ""
    if change.kind != "changed":
        return f"{change.kind}{came}"
    parts = [f"{change.changed_share:.1%} changed"]
    if change.norm_of_change is not None:
        parts.append(f"norm of change {number(change.norm_of_change)}")
    if change.relative_change is not None:
        parts.append(f"relative {number(change.relative_change)}")
    if change.cosine is not None:
        parts.append(f"cosine {number(change.cosine)}")
    if change.non_finite_a or change.non_finite_b:
        parts.append(f"not finite {change.non_finite_a} -> {change.non_finite_b}")
    return ", ".join(parts) + came
