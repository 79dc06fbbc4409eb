"""The media type in a `Content-Type`."""

from __future__ import annotations

from functools import lru_cache


@lru_cache(maxsize=256)  # clients send the same few over and over
def media_type(content_type: str | None) -> str:
    """Without parameters and in lower case; empty when there is none."""
    return (content_type or "").partition(";")[0].strip().lower()
