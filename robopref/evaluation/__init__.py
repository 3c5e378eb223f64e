"""Rollouts and the statistics of their results."""
