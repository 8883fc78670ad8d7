"""Distributed pretraining of cross-modal biosignal models (xMAE) on Ray."""

__version__ = "0.1.0"
