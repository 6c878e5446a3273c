"""`gnn-moe report`: a document written from the records of runs.

sources.py     studies and run folders → runs, grouped by protocol, and points: the runs of one setting
…              points → findings, as numbers
sections       findings → blocks of a document, as words
document.py    what a document is made of; markdown.py and html.py (charts.py, templates/) write it
writer.py      its folder: both, and figures
"""
