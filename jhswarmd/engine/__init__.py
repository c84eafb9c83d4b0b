"""Docker: the only way to the engine; its JSON as values, its errors as ours."""
