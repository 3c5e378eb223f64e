"""Operators: whoever watches a policy and takes over, scripted or human."""
