"""smile: private 3D and 4D face scans -> multi-view images -> the SMILE-VLM objective, on one site."""

__version__ = "0.1.0"
