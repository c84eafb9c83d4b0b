"""Secrets that rotate: generations, mounts, and what comes next. Pure."""
