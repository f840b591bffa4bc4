"""The corpora that ship with raykd: reviews, names, questions, dialogue and translations in en, fr and zh."""
