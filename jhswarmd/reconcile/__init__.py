"""Observe, decide, apply: one module for each thing that is kept in step."""
