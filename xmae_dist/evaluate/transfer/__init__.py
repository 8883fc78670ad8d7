"""Probes trained under one condition and tested under others: which rows are asked for, and how one is fitted."""
