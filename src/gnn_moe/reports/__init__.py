"""`gnn-moe report`: a document written from the records of runs.

sources         studies and run folders → runs, grouped by protocol, and points: the runs of one setting
swept, insights, interactions, returns, costs, run_curves, couplings, measures      points → findings, as numbers
overview, tables, cost, arms, convergence, coupling, recommendations, targets, protocol     findings → sections
report          sections → the document
document        what a document is made of; markdown, html and writer write it
"""
