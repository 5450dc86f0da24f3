"""SID history to next item: generators, beam search, and the data they train on."""
