"""What operations cost as a corpus grows: CPU time, peak memory, requests, and the exponent of each in recordings.

`python -m bench.scale --recordings 10000 30000 100000` (docs/scaling.md). A room's operations are in a file of its own,
and `__main__` names the rooms.
"""
