"""Tasks as Gymnasium environments, the intervention wrapper, and rendering that survives other environments."""
