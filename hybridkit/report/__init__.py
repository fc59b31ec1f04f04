"""What is drawn for people, one module a subject; rich and matplotlib are used here alone."""
