"""Recommender and CTR models for tabular and sparse data."""

__version__ = "0.1.0"
