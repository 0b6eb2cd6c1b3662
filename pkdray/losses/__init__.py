"""Losses: pure functions first, the composed objective last."""
