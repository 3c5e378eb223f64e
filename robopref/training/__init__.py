"""One thin trainer, its references and its checkpoints."""
