"""Figures that need somebody's trained network: each class loads one from files and measures with it.

Nothing here downloads. What is missing is a CheckpointError that says where the file belongs and where it is had.
"""
