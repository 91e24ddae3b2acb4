"""Scaling laws: what a compute budget buys, fitted from runs, planned for runs, predicted."""
