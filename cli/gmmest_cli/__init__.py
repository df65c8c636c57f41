"""The ``gmmest`` command."""
