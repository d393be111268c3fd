"""What the code location defines, one module a kind."""
