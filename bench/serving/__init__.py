"""How fast the model server answers, beside an empty application and other servers: `make bench-serving`."""
