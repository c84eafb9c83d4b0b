"""What the hub's own process runs besides JupyterHub: its identity, one handler, its settings.

Only ``hub_config`` imports it.
"""
