"""Click prediction with semantic IDs: one probability for a user and an item, no generator."""
