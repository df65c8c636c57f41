"""Models: from rows and parameters to moments.  Plain NumPy and gmmest.ops; no model names a derivative backend."""
