"""How fast it is: contenders side by side, in one run, on one engine of its own.

``python -m bench`` (``make bench``) starts an engine in namespaces of its own, real hubs on its
overlay network, and lets the contenders take turns: the bare engine, stock SwarmSpawner, ours.
What counts are the ratios of medians within a run; seconds depend on the machine and its load.
docs/benchmarks.md says what each row means.
"""
