"""raykd distils several frozen teachers, monolingual and multilingual, into one small student on Ray."""

__version__ = "0.1.0"
