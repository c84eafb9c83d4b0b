"""One module for each command: takes a deployment, returns a report."""
