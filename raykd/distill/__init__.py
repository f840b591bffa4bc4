"""The mathematics of distillation: torch and pydantic only, no Ray, no tokenizer, no task."""
