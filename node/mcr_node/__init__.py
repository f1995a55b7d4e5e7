"""Node of a model version store."""
