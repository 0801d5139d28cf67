"""Bytes of an image file to model pixels, by rules that have a version. Knows neither network nor model."""
