"""Helpers for people who work on a checkout; nothing here is part of an image or of the client's distribution."""
