"""The text of a run: sources → documents → tokens → samples → batches.

`corpus.load_corpus` is the whole way for a run; `batches` turns its samples into tensors and is the only module here
that imports torch, so that nothing else waits for it.
"""
