"""Signal processing of ECG and PPG: pure NumPy and SciPy, no I/O, safe for NaN.

Times are seconds from the first sample of the array given, rates are Hz, arrays are one channel long
(suffix `_T`) or a batch of equal windows (suffix `_BL`: B windows of L samples).
"""
