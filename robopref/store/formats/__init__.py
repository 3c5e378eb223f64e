"""Data sets of other tools: into a data directory and out of it, and what is lost on the way."""
