"""The spawner: one Swarm service with one task for each notebook server.

It lives in the hub's event loop and never blocks it. Nothing outside ``hub_config`` imports it.
"""
