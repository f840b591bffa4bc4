"""The corpora that ship with raykd: generated reviews, names, questions and translations in zh, en and fr."""
