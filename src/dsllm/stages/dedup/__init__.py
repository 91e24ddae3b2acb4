"""Exact and near duplicates out of all inputs together."""
