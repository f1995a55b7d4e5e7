"""A version's manifest: a Merkle tree of bounded nodes, stored as chunks. Pure; the format is in `nodes`.

`builder` makes one entry by entry, `walks` and `comparing` read one without doing I/O themselves, `paths`
says what a version may hold, `patterns` selects from it.
"""

from mcr.manifest.builder import ChunkList, ChunkListBuilder, ManifestBuilder, ManifestSummary, check_tensor
from mcr.manifest.comparing import Difference, compare
from mcr.manifest.nodes import NODE_BYTES_MAX, FileRow, Node, TreeKind, decode_node, encode_node
from mcr.manifest.paths import PARTIAL_FOLDER, STORE_FOLDER, PathOrder, check_path, check_symlink
from mcr.manifest.patterns import PathPattern
from mcr.manifest.walks import (
    Opened,
    Span,
    Steps,
    drain,
    drain_async,
    find_file,
    find_tensor,
    walk_chunks,
    walk_files,
    walk_ids,
    walk_new_ids,
    walk_tensors,
)

__all__ = [
    "NODE_BYTES_MAX",
    "PARTIAL_FOLDER",
    "STORE_FOLDER",
    "ChunkList",
    "ChunkListBuilder",
    "Difference",
    "FileRow",
    "ManifestBuilder",
    "ManifestSummary",
    "Node",
    "Opened",
    "PathOrder",
    "PathPattern",
    "Span",
    "Steps",
    "TreeKind",
    "check_path",
    "check_symlink",
    "check_tensor",
    "compare",
    "decode_node",
    "drain",
    "drain_async",
    "encode_node",
    "find_file",
    "find_tensor",
    "walk_chunks",
    "walk_files",
    "walk_ids",
    "walk_new_ids",
    "walk_tensors",
]
