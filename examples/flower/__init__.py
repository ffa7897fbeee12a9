"""Three of the airlines over Flower."""
