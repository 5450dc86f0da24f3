"""Search for the settings that validate best: spaces, proposals, trials, two engines, tables."""
