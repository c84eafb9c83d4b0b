"""Bringing a deployment up and down: what ``jhswarmd up``, ``build``, ``render``, ``down`` do."""
