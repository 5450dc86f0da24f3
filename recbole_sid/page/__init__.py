"""The command ``report``: finished work as one page that needs no network."""
