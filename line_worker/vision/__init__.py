"""What is computed from pixels: no clock, no file, no socket."""
