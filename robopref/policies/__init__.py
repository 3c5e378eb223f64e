"""Token policies: the tokenizer, the normalisation, the compact VLA and its checkpoints."""
