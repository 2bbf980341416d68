"""Changing a model that exists: finding the places for SE blocks and inserting them."""
