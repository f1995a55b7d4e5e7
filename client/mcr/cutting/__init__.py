"""Cutting files into chunks so that what did not change gives the same chunks again.

    plan         where a file's tensors are, from its header: safetensors, NumPy, PyTorch, GGUF, ONNX
    cut_window   tensors into fixed blocks, everything else by content

A plan is taken once, by reading ranges; then the file is cut window by window while it is read in order.
Cutting never changes bytes: the pieces of a file are the file. Pure: reading is a function that the caller
brings.
"""

from mcr.cutting.plan import plan
from mcr.cutting.spans import CutPlan, ReadAt, TensorSpan
from mcr.cutting.windows import WINDOW_BYTES, WINDOW_BYTES_MIN, Piece, block_bytes, cut_gap, cut_window

__all__ = [
    "WINDOW_BYTES",
    "WINDOW_BYTES_MIN",
    "CutPlan",
    "Piece",
    "ReadAt",
    "TensorSpan",
    "block_bytes",
    "cut_gap",
    "cut_window",
    "plan",
]
