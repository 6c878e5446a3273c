"""Several runs as evidence: comparisons whose answers carry their uncertainty.

`statistics` holds the numbers of one sample (intervals, p values, what could have been seen); `verdicts` pairs the arms
of a comparison by seed and says better, worse or no evidence.
"""
