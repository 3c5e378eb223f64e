"""The crash-safe journal and the store of finished episodes."""
