"""Where signals come from: frozen teachers, in this process or in actors on a Ray cluster."""
