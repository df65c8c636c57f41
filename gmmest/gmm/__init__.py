"""The generalized method of moments above blocks: sums, weights, criterion, optimisers, inference, verdict."""
