"""The platform's administration over HTTP."""
