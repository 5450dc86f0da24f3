"""Several models on the same users, items and split: runs, checks, statistics, tables."""
