"""Benchmarks: speed as ratios within one run, memory, digits and bits; ``gmmest bench``."""
