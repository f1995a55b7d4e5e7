"""Three-way merges of versions: what differs, who decides, and the bytes that come of it.

choices    what somebody can decide about a conflict, and rules that decide by name
trees      parameters, three-way
planning   files and tensors, three-way: what is taken from where, what is in conflict
layout     the container around merged tensors
writing    the plan carried out: chunks and a manifest, in memory that does not grow with the model
document   what a merge version keeps, so that anybody can compute it again
"""
