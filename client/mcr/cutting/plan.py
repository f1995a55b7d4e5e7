"""Finding out what a file is, by its content, and where its tensors are."""

from collections.abc import Iterable

from mcr.cutting import gguf, npy, onnx, safetensors, torch_zip, zip_directory
from mcr.cutting.ranges import Reader
from mcr.cutting.spans import CutPlan, ReadAt, TensorSpan, arrange, bytes_plan

MAGIC_BYTES = 8


def plan(read_at: ReadAt, size_bytes: int, name: str) -> CutPlan:
    """Find the tensors of a file without reading their bytes.

    A file that only looks like a model format (damaged header, overlapping tensors, cut short) gets the plan
    of plain bytes: whatever a file holds, it can be stored.

    Args:
        read_at: reads ranges of the file; what it raises passes through.
        size_bytes: length of the file.
        name: its path; a hint where content alone does not decide.
    """
    reader = Reader(read_at, size_bytes)
    try:
        format_name, tensors = _find(reader, name)
        return arrange(format_name, size_bytes, tensors)
    # Malformed in a way that a parser saw (MalformedError), or that a conversion saw for it.
    except ValueError:
        return bytes_plan(size_bytes)


def _find(reader: Reader, name: str) -> tuple[str, Iterable[TensorSpan]]:
    magic = reader.at(0, min(MAGIC_BYTES, reader.size_bytes))
    if magic.startswith(gguf.MAGIC):
        return "gguf", gguf.find_tensors(reader)
    if magic.startswith(npy.MAGIC):
        return "npy", npy.find_tensors(reader)
    if magic.startswith(zip_directory.MAGICS):
        return _find_in_zip(reader)
    if safetensors.looks_like(reader):
        return "safetensors", safetensors.find_tensors(reader)
    # Protobuf has no magic. Every known exporter writes the version first; the walk rejects others soon.
    if magic.startswith(onnx.USUAL_START) or name.lower().endswith(onnx.SUFFIX):
        return "onnx", onnx.find_tensors(reader)
    return "bytes", ()


def _find_in_zip(reader: Reader) -> tuple[str, Iterable[TensorSpan]]:
    members = list(zip_directory.members(reader))
    if torch_zip.is_archive(members):
        return "pt", torch_zip.find_tensors(reader, members)
    if any(npy.is_array(member) for member in members):
        return "npz", npy.find_zip_tensors(reader, members)
    return "bytes", ()
