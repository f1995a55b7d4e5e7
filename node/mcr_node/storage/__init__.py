"""Disk, nothing else."""
