"""Rewrite a configuration before it is used: earlier runs that it goes on from, commits of models of the hub."""
