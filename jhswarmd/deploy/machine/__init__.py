"""This machine: its engine, its programs, its addresses."""
