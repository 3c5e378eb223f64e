"""Preference losses as pure functions of tensors, a file each."""
