"""Tokenizers: from what is known about items to their base codes."""
