"""`make image-check`: builds both images for real, without a Docker engine, and asks them the contract's questions."""
