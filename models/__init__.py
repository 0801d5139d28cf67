"""Small models kept in the repository, and the scripts that make them."""
