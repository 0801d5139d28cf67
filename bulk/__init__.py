"""Everything at once: a table of URLs, files or texts to vectors, on Ray Data, with every row accounted for."""
