"""Profiles: their files read, checked, and recorded with the deployment."""
