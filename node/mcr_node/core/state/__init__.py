"""The replicated state: commands in, an ordered view out."""
