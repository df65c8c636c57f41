"""The derivative layer: plain NumPy functions in, exact derivatives out.  Knows nothing of choice or GMM."""
