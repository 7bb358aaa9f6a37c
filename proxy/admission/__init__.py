"""Who may send a request, and how much: keys, limits and load, decided in the worker without waiting."""
