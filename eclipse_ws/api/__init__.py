"""Where messages are saved and users looked up: the application over HTTP, or a store of our own."""
