"""Benchmarks: each compares the product with what a bare engine needs for the same rows, side by side in one run."""
