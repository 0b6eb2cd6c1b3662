"""Importers: one file a kind of recording, each writing the dataset format."""
