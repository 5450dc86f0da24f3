"""What is known about an item before it has a semantic ID: its texts and its vector."""
