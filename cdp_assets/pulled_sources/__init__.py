"""Records that the space asks other systems for: a table each, and events of those that say so. Before all other rooms."""
