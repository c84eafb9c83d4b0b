"""Commands between the command line and the daemons."""
