"""The deciding half: pure, no clock, chance, disk, network or threads."""
