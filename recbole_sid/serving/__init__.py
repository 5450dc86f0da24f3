"""The use of a finished run without RecBole's dataset: opening, exporting, answering requests."""
