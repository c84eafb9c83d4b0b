"""``jhswarmd run``: events and timers wake keys, workers reconcile them."""
