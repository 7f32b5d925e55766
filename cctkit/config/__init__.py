"""Settings: frozen, validated dataclasses, their fields and files. No torch."""
