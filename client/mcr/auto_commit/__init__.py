"""Committing by itself: looks at a folder, waits until what is in it is complete, commits by rule."""
