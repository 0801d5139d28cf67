"""Downloading of images that strangers name by URL, from public addresses only."""

from core.fetch.allowlist import AllowList
from core.fetch.fetcher import Fetcher, FetchLimits
from core.fetch.resolver import Resolver

__all__ = ["AllowList", "FetchLimits", "Fetcher", "Resolver"]
