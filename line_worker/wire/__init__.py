"""What travels between processes, and nothing else: messages, links, sockets, frames, recordings."""
