"""Asking a model: rows in, answers out; what it writes; whether its answers depend on the rows beside."""
