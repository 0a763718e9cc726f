"""Models that the space keeps as tables of their own, for people and their tools to read. Nothing is sent from here."""
