"""Data: the on-disk dataset, its importers and the bundled samples."""
