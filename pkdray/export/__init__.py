"""Export: the best student of a run as one folder that runs anywhere."""

from pkdray.export.card import model_card
from pkdray.export.graphs import ONNX, TORCH, write_graphs
from pkdray.export.student import export_student

__all__ = ["ONNX", "TORCH", "export_student", "model_card", "write_graphs"]
