"""Package compiled machine-learning models and link several of them into one firmware library."""

from __future__ import annotations

__version__ = "0.1.0"
