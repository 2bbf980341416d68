"""Use of the networks from within other libraries."""
