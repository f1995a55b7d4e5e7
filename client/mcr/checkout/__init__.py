"""A version written into a folder. `flow` decides what to fetch when, `destination` touches the disk."""

from mcr.checkout.flow import CheckoutProgress, CheckoutResult, ChunkReader, checkout

__all__ = ["CheckoutProgress", "CheckoutResult", "ChunkReader", "checkout"]
