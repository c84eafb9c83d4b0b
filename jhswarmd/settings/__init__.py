"""The keys of a profile."""
