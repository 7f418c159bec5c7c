"""What `listener run` serves over HTTP."""
