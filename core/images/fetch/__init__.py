"""Downloading of images that strangers name by URL, from public addresses only.

Callers import the modules: settings are read with `allowlist` alone, where neither TLS nor a parser is wanted.
"""
