"""Crashes, faults, outages and load, with real processes."""
