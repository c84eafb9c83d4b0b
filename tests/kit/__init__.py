"""What tests and bench run on: engines, stacks, and waits."""
