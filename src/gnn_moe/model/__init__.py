"""The language model whose experts talk to each other: experts, couplers, loss, and what they weigh and cost."""
