"""Serving over HTTP: a finished run behind /score or /recommend."""
