"""Profiles: reading and checking their files, and recording them with the deployment."""
