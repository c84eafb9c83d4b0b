"""The images of a deployment: built, pushed, and the registry that holds them."""
