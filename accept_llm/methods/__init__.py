"""What is trained: small fp32 modules that any engine can use, replicated."""
