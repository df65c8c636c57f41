"""What each NumPy function does to dual numbers; one table, keyed by the function object."""
