"""Define the columns of the tables of the wing."""
