"""The official checkpoint tree on disk: what belongs there, whether it is whole, and how it gets there."""
