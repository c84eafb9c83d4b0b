"""Lists of users and their passwords. Pure, but for the hashing."""
