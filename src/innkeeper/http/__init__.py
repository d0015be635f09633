"""HTTP: surfaces that parse and encode, and keep no state of their own."""
