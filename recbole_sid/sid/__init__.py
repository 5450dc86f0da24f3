"""Semantic IDs themselves: table, collisions, trie, quality. Pure NumPy, no torch, no RecBole."""
