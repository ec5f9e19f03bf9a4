"""Simulated two-camera robot episodes in, photorealistic ones out."""

__version__ = "0.1.0"
