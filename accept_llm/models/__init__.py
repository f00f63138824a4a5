"""Which model a recipe means, and what its folder holds. No torch, and no weight is read."""
