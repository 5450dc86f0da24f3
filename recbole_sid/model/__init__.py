"""What RecBole sees: one recommender over a tokenizer and a generator."""
