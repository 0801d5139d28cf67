"""The CLIP model: its directory on disk, its tokenizer, its fingerprint, and the engines that run it."""
