"""Where it is joined: data, teachers, students, tracking and the report become a run on a Ray cluster."""
