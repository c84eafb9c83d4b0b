"""JupyterHub on Docker Swarm that runs itself."""

__version__ = "0.1.0"
