"""Downloading of images that strangers name by URL, from public addresses only."""

from core.images.fetch.allowlist import AllowList
from core.images.fetch.fetcher import Fetcher, FetchLimits
from core.images.fetch.resolver import Resolver

__all__ = ["AllowList", "FetchLimits", "Fetcher", "Resolver"]
