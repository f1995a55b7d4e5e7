"""The edges: check, translate, delegate."""
