"""What codes and embeddings of items are worth without a generator: UniSID's measurements."""
