"""This process on its machine: processor, logs, garbage, and how it ends. Knows nothing of CLIP."""
